"""Several runs of one pair in one ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdzero_gp.analysis.results import RankedDistiller
from kdzero_gp.analysis.run import StoredRun
from kdzero_gp.errors import SettingError
from kdzero_gp.families import TaskFamily

# What has to be the same, so that the numbers of two runs are of one thing …
_PAIR = (
    "task", "data", "teacher", "teacher_weights", "student", "student_weights", "inherit_head", "image_size",
    "channels",
)  # fmt: skip
# … and what of their plans, so that they were measured alike.
_PLAN = ("race", "race_seeds", "race_from_scratch", "proxy", "weights", "images", "validation_images")


@dataclass(frozen=True)
class Found:
    """A distiller at its ``rank`` among all runs, as the run has it in which it stands best; ``places`` are its ranks
    in all runs that have it, written as ``run:DIR#RANK`` takes them."""

    rank: int
    distiller: RankedDistiller
    places: tuple[str, ...]


class Runs:
    """Runs of one teacher, student and data, side by side.

    Raises ``RunError`` where a folder holds no run, and ``SettingError`` where they are not of one pair.
    """

    def __init__(self, folders: Sequence[Path | str]):
        if len({Path(folder).resolve() for folder in folders}) != len(folders):
            raise SettingError("a run is given twice; give each once")
        self.runs = [StoredRun(folder) for folder in folders]
        self._settings = [run.settings for run in self.runs]
        first, *others = self._settings
        for run, settings in zip(self.runs[1:], others, strict=True):
            for name in _PAIR:
                ours, its = getattr(first, name), getattr(settings, name)
                if ours != its:
                    raise SettingError(
                        f"{self.runs[0].folder} and {run.folder} are not of one pair: {name} is {ours} and {its}; give "
                        "runs of the same teacher, student and data"
                    )

    @property
    def family(self) -> TaskFamily:
        """The family of the task."""
        return self._settings[0].family

    @property
    def notes(self) -> list[str]:
        """Where the runs measured otherwise than the first, so that their numbers are not quite comparable."""
        first, found = self._settings[0].plan, []
        for run, settings in zip(self.runs, self._settings, strict=True):
            other = [name for name in _PLAN if getattr(settings.plan, name) != getattr(first, name)]
            if other:
                names = ", ".join(name.replace("_", " ") for name in other)
                found.append(f"{run.folder} and {self.runs[0].folder} differ in {names}: compare with care")
        return found

    def top(self, count: int = 10) -> list[Found]:
        """The best ``count`` distillers of all runs, those with a result of a race by its mean, then the others by
        fitness; one that several runs found comes once."""
        listed = [one for run in self.runs for one in run.top(count)]
        ordered = sorted(listed, key=self._key)
        best = {one.digest: one for one in reversed(ordered)}
        chosen = sorted(best.values(), key=self._key)[:count]
        return [
            Found(rank, one, tuple(f"{o.folder}#{o.rank}" for o in ordered if o.digest == one.digest))
            for rank, one in enumerate(chosen, 1)
        ]

    def _key(self, one: RankedDistiller) -> tuple[Any, ...]:
        fitness = math.inf if one.fitness is None else one.fitness
        if one.standing is None:
            return True, 0.0, 0.0, fitness, one.digest
        return False, *self.family.order(one.standing.means), fitness, one.digest

    def rows(self) -> list[dict[str, Any]]:
        """One row for each run: its ``folder``, ``seed``, whether it is ``finished``, its ``counts``, the ``best``
        distiller and the ``verdict`` of its fresh seeds."""
        rows = []
        for run, settings in zip(self.runs, self._settings, strict=True):
            top, verdict = run.top(1), run.verdict
            rows.append({
                "folder": run.folder, "seed": settings.search.seed, "finished": run.finished, "counts": run.counts,
                "best": top[0] if top else None, "verdict": None if verdict is None else verdict.lines,
            })  # fmt: skip
        return rows
