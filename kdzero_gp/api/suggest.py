"""``suggest``: distillers for a pair without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdzero_gp.analysis.run import StoredRun
from kdzero_gp.analysis.several import Runs
from kdzero_gp.api.given import given
from kdzero_gp.api.search import MACHINE, Run, must_have_networks, next_folder, texts_of
from kdzero_gp.api.shown import shown
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import SettingError
from kdzero_gp.progress import Progress
from kdzero_gp.search.options import settings_from
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.suggestions import Suggestion, Wish
from kdzero_gp.search.suggestions import suggest as suggested

# What a run's folder decides, so that it cannot be said again.
_OF_RUN = ("data", "image_size", "channels", "space", "magnitude")


def suggest(
    teacher: Any = None,
    student: Any = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    *,
    count: int = 5,
    goal: str = "",
    step_time: float | None = None,
    run: StoredRun | str | Path | Sequence[StoredRun | str | Path] | None = None,
    family: str = "classification",
    out: str | Path | None = None,
    task: str | None = None,
    classes: int | Sequence[str] | None = None,
    verbose: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> list[Suggestion]:
    """Suggest ``count`` distillers for a pair, each with a paragraph of reasons and as a file that needs only torch.

    Pair and data are given as for ``evolve``; or a ``run`` of the pair, from which its best, and variations that its
    surrogate finds promising, are taken, too; or several, of which the first one's student, teacher and surrogate are
    used. ``goal``: what is wanted, in words, for a language model (``llm_url``,
    ``llm_model``, …, as in ``evolve``); without one the zoo and the run suggest. ``knowledge`` says what may be used,
    ``loss_memory`` (MiB) and ``step_time`` (milliseconds) what it may cost. Every candidate is screened and trained
    once by the pair's proxy. Raises KdzeroError.

    Example: ``kdzero_gp.suggest(task="digits", goal="robust to a weak teacher")[0].reason``.
    """
    machine = Machine.taken_from(options, *MACHINE)
    runs = [run] if isinstance(run, StoredRun | str | Path) else list(run or ())
    folders = tuple(Path(one.folder if isinstance(one, StoredRun) else one) for one in runs)
    with shown(verbose, progress) as told:
        if runs:
            settings = _of_run(runs[0], options, (teacher, student, train, task))
            chosen = runs[0].given if isinstance(runs[0], Run) else given()
            for note in Runs(folders).notes:
                told.note(note)
        else:
            chosen = given(teacher, student, train, validation, test, family=family, task=task, classes=classes)
            named = {name: getattr(chosen, name) for name in ("task", "data", "teacher", "student")}
            with chosen.known():
                settings = settings_from(texts_of(options) | named)
        must_have_networks(settings)
        folder = Path(out) if out is not None else next_folder(settings.task, "suggestions")
        wish = Wish(count, goal, step_time, folders)
        told.note(f"folder: {folder}")
        with chosen.known():
            return suggested(folder, settings, wish, machine, told)


def _of_run(run: StoredRun | str | Path, options: Mapping[str, Any], pair: tuple[Any, ...]) -> RunSettings:
    """The settings of an earlier run, with the limits and the model that are asked for now."""
    if any(one is not None for one in pair) or any(options.get(name) is not None for name in _OF_RUN):
        raise SettingError("a run has its pair and data already; leave out run, or teacher, student and data")
    earlier = (run if isinstance(run, StoredRun) else StoredRun(run)).settings
    asked = settings_from(texts_of({n: v for n, v in options.items() if n.startswith("llm_") or n in _LIMITS}))
    # nothing is compared here
    changes: dict[str, Any] = {"llm": asked.llm, "knowledge": asked.knowledge, "judge": "none"}
    if options.get("loss_memory") is not None:
        changes["plan"] = replace(earlier.plan, loss_memory=asked.plan.loss_memory)
    return replace(earlier, **changes)


_LIMITS = ("knowledge", "loss_memory")
