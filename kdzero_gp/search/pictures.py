"""What the networks of a run say of some validation images, in a folder of the run, for the page. A run without it, as
earlier versions made, lacks pictures and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdzero_gp.common import ALONE
from kdzero_gp.data.inputs import Inputs
from kdzero_gp.engine.predictions import Predictions, draws, pictured, said, unpacked
from kdzero_gp.families import TaskFamily
from kdzero_gp.files import atomic_write
from kdzero_gp.models.contract import InputContract
from kdzero_gp.search.confirmation import winner
from kdzero_gp.search.race import Competitor, best_of, by_seed, standings
from kdzero_gp.search.seeds import FRESH, PRUNING, RACE, seeds_of
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database
from kdzero_gp.training.verdict import REFERENCE, mean_interval

FOLDER, BEGUN = "predictions", "begun.safetensors"
TEACHER, WARM = "teacher", "warm student"


class Pictures:
    """Of a race, of its pruning and of its confirmation, the students of the first seed."""

    def __init__(self, folder: Path, family: TaskFamily, seed: int):
        self.folder, self.draws = folder / FOLDER, draws(family)
        (race,), (fresh,) = seeds_of(RACE, seed, 1), seeds_of(FRESH, seed, 1)
        self.seeds = {RACE: race, PRUNING: race, FRESH: fresh}

    def wanted(self, kind: str, seed: int) -> bool:
        """Whether a student of this seed is asked for what it says."""
        return self.draws and self.seeds.get(kind) == seed

    def keep(self, kind: str, name: str, answer: bytes) -> None:
        """Write down what a student said; nothing where it said nothing."""
        if answer:
            self.folder.mkdir(exist_ok=True)
            atomic_write(self.folder / _file(kind, name), answer)


def begin(
    folder: Path, family: TaskFamily, images: Inputs, targets: Tensor, contract: InputContract, teacher: Any,
    student: Any,
) -> None:  # fmt: skip
    """Write down the images, their targets, and what the teacher and the warm student say; nothing where the family
    draws nothing."""
    empty = pictured(family, images, targets, contract)
    if empty is None:
        return
    told = {name: said(family, network.eval(), images) for name, network in ((TEACHER, teacher), (WARM, student))}
    (folder / FOLDER).mkdir(exist_ok=True)
    Predictions(empty.images, empty.truth, told, empty.classes).save(folder / FOLDER / BEGUN)


def students(database: Database, settings: RunSettings) -> dict[str, Competitor]:
    """Whom the page shows, by title: cross-entropy alone, ``kd``, the run's winner and its best evolved distiller."""
    table = [result for result in standings(database, settings) if not result.reason]
    won, best = winner(database, settings), best_of(table, "evolved")
    evolved = [best.entry] if best is not None and (won is None or won.kind != "evolved") else []
    known = [result.entry for result in table if result.entry.name in (ALONE, REFERENCE)]
    known.sort(key=lambda entry: entry.name != ALONE)
    chosen = [*known, *([] if won is None else [won]), *evolved]
    return {"evolved" if entry.kind == "evolved" else entry.title: entry for entry in chosen}


def of_run(folder: Path, shown: Mapping[str, Competitor]) -> Predictions | None:
    """What the teacher and the students of the race say (before the race, the warm student); None where a run kept no
    predictions."""
    begun = Predictions.load(folder / FOLDER / BEGUN)
    if begun is None:
        return None
    answers = {title: _answer(folder, entry.name) for title, entry in shown.items()}
    told = {title: answer for title, answer in answers.items() if answer is not None}
    return replace(begun, said={TEACHER: begun.said[TEACHER], **(told or {WARM: begun.said[WARM]})})


def by_class(
    database: Database, settings: RunSettings, shown: Mapping[str, Competitor]
) -> dict[str, dict[int, tuple[float, float]]]:
    """The measures of each class on validation images: of the teacher, and of students the mean and the half-width of
    its interval over the seeds, on fresh ones where there are some."""
    measure = settings.family.of_class
    if measure is None:
        return {}
    bench = database.fact("bench") or {}
    found = {TEACHER: _classes([bench], f"teacher_validation_{measure.name}_")}
    for title, entry in shown.items():
        for kind in (FRESH, PRUNING, RACE):
            rows = [row.metrics for row in by_seed(database, kind).get(entry.name, {}).values() if not row.reason]
            if rows:
                found[title] = _classes(rows, f"{measure.name}_")
                break
    return {title: numbers for title, numbers in found.items() if numbers}


def _classes(rows: Sequence[Mapping[str, Any]], start: str) -> dict[int, tuple[float, float]]:
    """Means over rows of the measures whose names begin so and end with the number of a class."""
    names = {name for row in rows for name in row if name.startswith(start) and name[len(start) :].isdigit()}
    values = {name: [float(row[name]) for row in rows if name in row] for name in names}
    return {int(name[len(start) :]): mean_interval(of_name) for name, of_name in values.items()}


def _answer(folder: Path, name: str) -> Tensor | None:
    for kind in (FRESH, PRUNING, RACE):
        path = folder / FOLDER / _file(kind, name)
        if path.exists():
            return unpacked(path.read_bytes())
    return None


def _file(kind: str, name: str) -> str:
    return f"{kind}-{name}.safetensors"
