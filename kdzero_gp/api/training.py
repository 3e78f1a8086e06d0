"""``distill`` and ``compare``: long trainings of a pair given by names, by objects or by a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kdzero_gp import tasks
from kdzero_gp.analysis.results import RankedDistiller
from kdzero_gp.api.given import Given, given
from kdzero_gp.api.search import Run, numbers_text
from kdzero_gp.api.shown import shown
from kdzero_gp.compiler import Expression
from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.models import names as built_in
from kdzero_gp.models.weights import load_weights
from kdzero_gp.objects import is_own
from kdzero_gp.progress import Progress
from kdzero_gp.search.options import DEFAULT_TASK
from kdzero_gp.search.prepare import TEACHER
from kdzero_gp.training import api as trainings
from kdzero_gp.training import folder as files
from kdzero_gp.training.compare import FACTORS
from kdzero_gp.training.compare import compare as compare_trainings
from kdzero_gp.training.distillers import NamedDistiller, must_be_there, split_course
from kdzero_gp.training.halving import halve
from kdzero_gp.training.normalising import normalised
from kdzero_gp.training.run import run as run_training
from kdzero_gp.training.settings import Settings, TrainingResult

# Where neither a call nor a run says how to train.
DEFAULT_RECIPE = "short"
# A distiller: a run's (``run.best``, the run itself, ``run:DIR#RANK``), a file, an expression, or ``zoo:NAME``.
Distiller = Any


@dataclass(frozen=True, repr=False)
class Distilled(TrainingResult):
    """How a training with a distiller ended: the measures, and ``student``, the trained network in evaluation mode.
    ``folder`` holds its weights, the log and the distiller."""

    student: nn.Module = field(default_factory=nn.Identity, repr=False)
    folder: Path = Path()
    task: str = ""

    def __repr__(self) -> str:
        parts = {part: getattr(self, part) for part in ("test", "validation", "teacher")}
        deciding = tasks.get(self.task).family.deciding
        shown = [f"{part} {deciding.with_unit(values[deciding.name])}" for part, values in parts.items() if values]
        return f"{deciding.label}: {', '.join(shown)}; {self.parameters:,} parameters, in {self.folder}"


def distill(
    teacher: Any = None,
    student: Any = None,
    distiller: Distiller = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    *,
    recipe: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    magnitude: str | None = None,
    tensorboard: bool = False,
    run: Run | None = None,
    verbose: bool = True,
    progress: Progress | None = None,
    **more: Any,
) -> Distilled:
    """Train a student by its own loss plus a distiller's, as ``recipe`` says: without one as the run's race trained new
    students, or else as ``short`` says.

    Networks and data are as in ``evolve``. A distiller of a run brings the run's task, data, networks, taps and
    weights, as far as they are not given; a task's own teacher is trained first where it has no weights. ``more`` are
    ``teacher_weights``, ``student_weights``, ``teacher_mean``, ``teacher_std``, ``student_mean``, ``student_std``,
    ``teacher_taps``, ``student_taps``, ``inherit_head`` (the student starts with those weights of the teacher's neck
    and head that fit it), ``shadow`` (``teacher`` or ``student``: on whose maps a second class head takes
    part), ``validate``, ``task``, ``family``, ``classes``, ``device``, ``threads``, ``precision``, ``readers``, and
    fields of the recipe, such as ``epochs``. A distiller may bring its own course over the training, such as
    ``zoo:kd@early`` (see ``Recipe.distillation``). The same call goes on where an interrupted one stopped. Raises
    KdzeroError.

    Example: ``kdzero_gp.distill(teacher, SmallNet, run.best, train_set, epochs=30).student``.
    """
    if distiller is None:
        raise SettingError("there is no distiller; give run.best, run:DIR, a file, an expression or zoo:NAME")
    with (
        shown(verbose, progress) as told,
        _opened(
            [distiller], run, (teacher, student, train, validation, test), recipe, out, "distill", more, told
        ) as work,
    ):
        (found,) = work.distillers
        result = trainings.distill(
            work.pair, found, out=work.folder, seed=seed, magnitude=magnitude, machine=work.machine, progress=told,
            tensorboard=tensorboard,
        )  # fmt: skip
        return Distilled(
            **vars(result), student=_trained(work.pair, work.folder), folder=work.folder, task=work.pair.task
        )


def compare(
    teacher: Any = None,
    student: Any = None,
    distillers: Sequence[Distiller] = (),
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    *,
    seeds: int | None = None,
    factors: Sequence[float] = FACTORS,
    tune_epochs: int | None = None,
    halving: bool = False,
    fresh_seeds: int | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    run: Run | None = None,
    verbose: bool = True,
    progress: Progress | None = None,
    **more: Any,
) -> Any:
    """Train the student with each distiller, with ``kd`` and by its own loss alone, on the same seeds, each with its
    magnitude tuned on the same grid: see ``kdzero_gp.training.compare``; ``seeds`` is 5. With ``halving`` they train in
    rungs of growing length, of which the better half goes on, and the best student is kept: see
    ``kdzero_gp.training.halve``; ``seeds`` is 1 there, and ``fresh_seeds`` (3) choose nothing and report. Gives a
    ``Comparison`` or a ``Halving``. Everything else is as in ``distill``; ``more`` takes ``workers``, too. Raises
    KdzeroError.

    Example: ``kdzero_gp.compare(teacher, SmallNet, [run.best, "zoo:dist"], train_set, seeds=5)``.
    """
    if isinstance(distillers, str | Path | Expression | RankedDistiller | Run):
        distillers = [distillers]
    if fresh_seeds is not None and not halving:
        raise SettingError("--fresh-seeds has no effect without --halving; add it, or leave --fresh-seeds out")
    train_all = halve if halving else compare_trainings
    counts: dict[str, Any] = {
        name: count for name, count in (("seeds", seeds), ("fresh_seeds", fresh_seeds)) if count is not None
    }
    with (
        shown(verbose, progress) as told,
        _opened(
            distillers, run, (teacher, student, train, validation, test), recipe, out, "compare", more, told
        ) as work,
    ):
        return train_all(
            work.pair, work.distillers, out=work.folder, factors=factors, tune_epochs=tune_epochs, seed=seed,
            machine=work.machine, progress=told, **counts,
        )  # fmt: skip


@dataclass(frozen=True)
class _OpenedCall:
    pair: trainings.Pair
    distillers: list[Any]
    folder: Path
    machine: Machine


@contextmanager
def _opened(
    distillers: Sequence[Distiller], run: Run | None, objects: tuple[Any, ...], recipe: str | None,
    out: str | Path | None, what: str, more: Mapping[str, Any], progress: Progress,
) -> Iterator[_OpenedCall]:  # fmt: skip
    """The pair, the distillers and the folder of a call, while its objects are known."""
    options = dict(more)
    machine = Machine.taken_from(options, *_MACHINE)
    named = {name: options.pop(name) for name in ("task", "family", "classes") if name in options}
    run = run or next((found for one in distillers if (found := _run_of(one)) is not None), None)
    chosen = given(*objects, **named, earlier=Given() if run is None else run.names)
    for note in chosen.notes:
        progress.note(note)
    with chosen.known():
        pair = _pair(chosen, run, recipe or _recipe_of(run), options)
        folder = Path(out) if out is not None else Path("runs") / f"{_stem(chosen, run)}-{what}"
        if out is None:
            progress.note(f"folder: {folder}")
        if run is not None:
            _tell_length(run, pair, progress)
        there = [resolved(one) for one in distillers]
        pair.settings()  # a recipe that makes no sense, and a distiller that is none, before a teacher is trained
        for one in there:
            must_be_there(one)
        pair = normalised(_with_teacher(pair, folder, machine, progress), machine, progress)
        yield _OpenedCall(pair, there, folder, machine)


def _tell_length(run: Run, pair: trainings.Pair, progress: Progress) -> None:
    """What the race of a run trained, where this is another length."""
    plan, epochs = run.settings.plan, pair.settings(0).recipe.epochs
    if epochs != plan.race.epochs:
        start = "a new student" if plan.race_from_scratch else "its warm student"
        progress.note(
            f"trains for {epochs:g} epochs; the race of {run.folder} trained {start} for {plan.race.epochs:g}, so that "
            "its accuracies are not those to expect; --epochs says how long"
        )


def _recipe_of(run: Run | None) -> str | Recipe:
    """How a run's race trained new students, so that a student is as good as its table says; ``short`` where there is
    no run, or where it went on with a warm student, which says nothing about a new one."""
    plan = None if run is None else run.settings.plan
    return plan.race if plan is not None and plan.race_from_scratch else DEFAULT_RECIPE


_MACHINE = ("device", "workers", "threads", "precision", "readers")
_STATISTICS = ("teacher_mean", "teacher_std", "student_mean", "student_std")
_PAIR = (
    "teacher_weights", "student_weights", "inherit_head", "teacher_taps", "student_taps", "validate", "channels",
    "shadow",
    *_STATISTICS,
)  # fmt: skip


def _pair(chosen: Given, run: Run | None, recipe: str | Recipe, options: dict[str, Any]) -> trainings.Pair:
    """The pair of a call. Raises SettingError where a network is not named and cannot be known."""
    values: dict[str, Any] = {name: options.pop(name) for name in _PAIR if name in options}
    values = {name: value for name, value in values.items() if value is not None}
    values |= {name: numbers_text(value) for name, value in values.items() if name in _STATISTICS}
    changes = {**(options.pop("changes", None) or {}), **options}
    task = chosen.task or DEFAULT_TASK
    plan = tasks.get(task).plan
    teacher, student = chosen.teacher or plan.teacher, chosen.student or plan.student
    for role, name in (("teacher", teacher), ("student", student)):
        if not name:
            raise SettingError(f"there is no {role}; give a module or a name")
    if run is not None:
        for role, name in (("teacher", teacher), ("student", student)):
            if name == getattr(run.settings, role):
                brought = _from_run(run, role)
                if any(f"{role}_{part}" in values for part in ("mean", "std")):  # belong together
                    brought = {name: one for name, one in brought.items() if name not in _STATISTICS}
                values = brought | values
    return trainings.Pair(task, student, teacher, data=chosen.data, recipe=recipe, changes=changes, **values)


def _from_run(run: Run, role: str) -> dict[str, Any]:
    """The taps and weights that a run has for its teacher or student."""
    settings = run.settings
    weights = getattr(settings, f"{role}_weights")
    kept = run.folder / TEACHER
    if role == "teacher" and weights is None and kept.exists():
        weights = str(kept)
    found = {f"{role}_taps": dict(getattr(settings, f"{role}_taps")), f"{role}_weights": weights}
    named = {f"{role}_{part}": getattr(settings, f"{role}_{part}") for part in ("mean", "std")}
    if role == "student":
        found["inherit_head"] = settings.inherit_head
    elif not any(named.values()):
        named = run.teacher_statistics
    return found | named


def _with_teacher(pair: trainings.Pair, folder: Path, machine: Machine, progress: Progress) -> trainings.Pair:
    """The pair with weights of its teacher: trained beside the folder, as a search trains it, where it has none."""
    from dataclasses import replace

    recipe = tasks.get(pair.task).plan.teacher_recipe
    if pair.teacher_weights is not None or is_own(pair.teacher) or recipe is None or pair.teacher not in built_in():
        return pair
    place = folder.with_name(f"{folder.name}-teacher")
    progress.note(f"the teacher {pair.teacher} has no weights; it is trained in {place}")
    result = run_training(
        Settings(task=pair.task, student=pair.teacher, data=pair.data, recipe=recipe), place, machine, progress
    )
    if result.reason:
        raise RunError(f"the teacher {pair.teacher} could not be trained: {result.reason}; give teacher_weights")
    return replace(pair, teacher_weights=str(files.as_network(place)))


def _stem(chosen: Given, run: Run | None) -> str:
    if run is not None:
        return run.folder.resolve().name
    task = chosen.task or DEFAULT_TASK
    return "own" if is_own(task) else task


def _run_of(distiller: Distiller) -> Run | None:
    """The run that a distiller belongs to. Raises SettingError where its folder holds none."""
    if isinstance(distiller, Run):
        return distiller
    if isinstance(distiller, RankedDistiller):
        return Run(distiller.folder)
    return named_run(distiller)[0] if isinstance(distiller, str) and distiller.startswith("run:") else None


def named_run(text: str) -> tuple[Run, int | None]:
    """The run in ``run:DIR``, which stands for its winner, or the run and the rank in ``run:DIR#RANK``. Raises
    SettingError."""
    folder, mark, rank = split_course(text)[0].removeprefix("run:").partition("#")
    if not Path(folder).is_dir() or (mark and not rank.isdigit()):
        raise SettingError(f"{text!r} does not name a run; write run:DIR or run:DIR#RANK of kdzero-gp show")
    return Run(folder), int(rank) if mark else None


def resolved(distiller: Distiller) -> Any:
    """A distiller as trainings take it: of a run, or of one of its distillers, the expression and final magnitudes."""
    if isinstance(distiller, str) and distiller.startswith("run:"):
        run, rank = named_run(distiller)
        found: NamedDistiller = resolved(run if rank is None else run.find(rank))
        return found.along(split_course(distiller)[1])
    if isinstance(distiller, Run):
        expression, _, magnitudes, shares = distiller.winner
        return NamedDistiller(distiller.folder.resolve().name, expression, magnitudes, shares)
    if not isinstance(distiller, RankedDistiller):
        return distiller
    name = f"{distiller.folder.resolve().name}#{distiller.rank}"
    return NamedDistiller(name, distiller.expression, distiller.magnitudes, distiller.shares)


def _trained(pair: trainings.Pair, folder: Path) -> nn.Module:
    """The trained student, as the user's own class where it is one."""
    task = tasks.get(pair.task)
    classes, channels, _ = task.sizes_of(pair.data)
    network = task.family.build(pair.student, classes, channels)
    load_weights(network, folder / files.STUDENT)
    return network.eval()
