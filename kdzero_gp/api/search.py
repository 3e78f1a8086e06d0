"""``evolve``, and the run that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzero_gp.analysis.replay import Replay
from kdzero_gp.analysis.run import StoredRun, Which
from kdzero_gp.api.given import Given, given
from kdzero_gp.api.shown import in_notebook, shown
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import RunError, SettingError, meant
from kdzero_gp.objects import is_own, kind_of
from kdzero_gp.progress import Progress
from kdzero_gp.search.config import read_config
from kdzero_gp.search.options import OPTIONS, settings_from
from kdzero_gp.search.run import RunResult, resume, start
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import DATABASE

if TYPE_CHECKING:
    from kdzero_gp.api.training import Distilled

# Options that ``evolve`` has under names of its own.
_NAMED = ("task", "data", "teacher", "student", "out")
# Those that say where a search computes.
MACHINE = ("device", "workers", "timeout", "engine", "address", "gpu_share")


def evolve(
    teacher: Any = None,
    student: Any = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    *,
    family: str = "classification",
    out: str | Path | None = None,
    task: str | None = None,
    classes: int | Sequence[str] | None = None,
    verbose: bool = True,
    progress: Progress | None = None,
    config: str | Path | None = None,
    **options: Any,
) -> Run:
    """Search for the best distiller of a teacher, a student and data, in the folder ``out``.

    ``teacher``: an ``nn.Module`` with its weights, or a name; ``student``: an ``nn.Module`` (its weights are the
    start), a callable that makes one, or a name; ``train``, ``validation``, ``test``: a ``Dataset`` of (input, target),
    a pair of tensors, a ``DataLoader`` (its data set is taken), or for ``train`` a path or the name of a task. An input
    is a tensor of any rank, or a mapping of tensors, which networks get as keyword arguments. What is not given of the
    data is split off ``train``. ``options`` are those of ``kdzero-gp evolve`` with ``_`` for ``-``: ``generations``,
    ``pop``, ``seed``, ``space``, …, also ``device``, ``workers``, ``timeout``, ``engine``, ``address`` and
    ``gpu_share``; ``teacher_tap`` and ``weight`` are mappings, ``knowledge`` and ``objectives`` sequences. ``config``:
    a file with options, such as another run's ``config.toml``; those that are given win.

    In a notebook the stop button gives the run so far; elsewhere Ctrl-C raises KeyboardInterrupt, and
    ``Run(out).resume(teacher, student, train)`` goes on. Nothing of the user's is changed, and nothing pickled is kept.
    Raises KdzeroError.

    Example: ``run = kdzero_gp.evolve(teacher, SmallNet, train_set, generations=20); run.best.distiller()``.
    """
    machine = Machine.taken_from(options, *MACHINE)
    texts = texts_of(options)
    if config is not None:
        file = read_config(Path(config))
        task, teacher, student = (
            task or file.get("task"),
            teacher or file.get("teacher"),
            student or file.get("student"),
        )
        train = file.get("data") if train is None else train
        texts = {**{name: value for name, value in file.items() if name not in _NAMED}, **texts}
    with shown(verbose, progress) as shown_progress:
        chosen = given(teacher, student, train, validation, test, family=family, task=task, classes=classes)
        with chosen.known():
            named = {name: getattr(chosen, name) for name in ("task", "data", "teacher", "student")}
            settings = settings_from(texts | named)
            must_have_networks(settings)
            folder = Path(out) if out is not None else next_folder(settings.task)
            shown_progress.note(f"run folder: {folder}")
            return _carried_out(
                folder, chosen, shown_progress, lambda: start(folder, settings, machine, shown_progress)
            )


def _carried_out(folder: Path, chosen: Given, progress: Progress, work: Callable[[], RunResult]) -> Run:
    """The run after its work; in a notebook also one that was stopped."""
    for note in chosen.notes:
        progress.note(note)
    progress.watch(folder)
    try:
        result = work()
    except KeyboardInterrupt:
        if not (in_notebook() and (folder / DATABASE).exists()):
            raise
        progress.end()
        progress.note("stopped; this is the run so far, and .resume() goes on with it")
        return Run(folder.absolute(), chosen)
    return Run(folder.absolute(), chosen, result)


def next_folder(task: str, parent: str = "runs") -> Path:
    """The first ``runs/TASK-N`` that does not exist."""
    name, number = "own" if is_own(task) else task, 1
    while (folder := Path(parent) / f"{name}-{number}").exists():
        number += 1
    return folder


def must_have_networks(settings: RunSettings) -> None:
    for role in ("teacher", "student"):
        if not getattr(settings, role):
            raise SettingError(f"there is no {role}; give a module or a name")


def texts_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the command line has them. Raises SettingError for one that does not exist."""
    known = {option.key: option for option in OPTIONS if option.key not in _NAMED}
    texts: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            hint = meant(name, known, f"there are {', '.join(known)}")
            raise SettingError(f"evolve has no option {name!r}; {hint}")
        if isinstance(value, Mapping):
            value = tuple(f"{key}={one}" for key, one in value.items())
        elif known[name].form == "names" and value is not None and not isinstance(value, str):
            value = ",".join(value)
        elif known[name].metavar == "NUMBERS":
            value = numbers_text(value)
        texts[name] = value
    return texts


def numbers_text(value: Any) -> Any:
    """Numbers in a sequence, or one, as the command line has them; anything else as it is."""
    if isinstance(value, list | tuple):
        return ",".join(f"{number:.9g}" if isinstance(number, float) else str(number) for number in value)
    return f"{value:.9g}" if isinstance(value, int | float) else value


class Run(StoredRun):
    """A run, finished or not: what ``evolve`` gives, or by its folder, as ``Run("runs/digits-1")``.

    ``best`` is its best distiller (``.distiller()`` the module, ``.expression`` the text, a picture in a notebook);
    ``result`` is how its search ended, where that was in this session. Opening a folder runs nothing that is in it.
    """

    def __init__(self, folder: Path | str, chosen: Given | None = None, result: RunResult | None = None):
        super().__init__(folder)
        self.given = chosen or Given()
        self.result = result

    def resume(
        self, teacher: Any = None, student: Any = None, train: Any = None, validation: Any = None, test: Any = None, *,
        classes: int | Sequence[str] | None = None, generations: int | None = None, verbose: bool = True,
        progress: Progress | None = None, **machine: Any,
    ) -> Run:  # fmt: skip
        """Go on where the run was interrupted, or for more ``generations``. Objects of the user's have to be given
        again in another session; they must be those that the run was started with, by their fingerprints. ``machine``
        are ``device``, ``workers`` and the others of ``evolve``, ``precision`` and ``threads``. Raises KdzeroError."""
        settings = self.settings
        family = kind_of(settings.task) if is_own(settings.task) else settings.family.name
        chosen = given(
            teacher, student, train, validation, test, classes=classes, family=family, earlier=self.names
        )  # fmt: skip
        for role in ("teacher", "student", "task"):
            before, now = getattr(settings, role), getattr(chosen, role)
            if now != before:
                noun = "data are" if role == "task" else f"{role} is"
                raise RunError(
                    f"the {noun} not what {self.folder} was started with ({before}, now {now}); give the same, or "
                    "start a new run"
                )
        where = Machine(**machine)
        with shown(verbose, progress) as shown_progress, chosen.known():
            work = lambda: resume(self.folder, where, shown_progress, generations)  # noqa: E731
            return _carried_out(self.folder, chosen, shown_progress, work)

    @property
    def names(self) -> Given:
        """What the run was started with, with the objects that are at hand."""
        settings = self.settings
        return replace(
            self.given, task=settings.task, data=settings.data, teacher=settings.teacher, student=settings.student
        )

    def fit(
        self, teacher: Any = None, student: Any = None, train: Any = None, validation: Any = None, test: Any = None, *,
        distiller: Any = None, **options: Any,
    ) -> Distilled:  # fmt: skip
        """Train the run's student with its winner, a published method perhaps, or another distiller, as its race
        trained new students: ``kdzero_gp.distill`` with the teacher, student, data, taps and weights of the run unless
        they are given. Raises KdzeroError."""
        from kdzero_gp.api.training import distill

        chosen = self if distiller is None else distiller
        return distill(teacher, student, chosen, train, validation, test, run=self, **options)

    def final(self, count: int, *, progress: Progress | None = None, verbose: bool = True, **options: Any) -> Any:
        """Train the ``count`` best distillers that are no near twins and the published methods in rungs of growing
        length, and keep the best student: a ``Halving``. ``options`` are those of ``kdzero_gp.search.final.final``."""
        from kdzero_gp.search.final import final

        with shown(verbose, progress) as told, self.given.known():
            return final(self.folder, count, progress=told, **options)

    def replay(self, which: Which = 1, *, device: str = "auto", check: bool = True) -> Replay:
        with self.given.known():
            return super().replay(which, device=device, check=check)
