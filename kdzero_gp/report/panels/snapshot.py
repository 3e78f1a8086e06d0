"""What the panels show, read from a run at one moment; the run may go on meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdzero_gp.common import ALONE_TEXT
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.engine.predictions import FILE, Predictions, draws
from kdzero_gp.errors import KdzeroError
from kdzero_gp.search.confirmation import confirmation, verdict
from kdzero_gp.search.final import FINAL
from kdzero_gp.search.pictures import by_class, of_run, students
from kdzero_gp.search.pruning import Pruning, pruning
from kdzero_gp.search.race import Competitor, RaceResult, standings
from kdzero_gp.search.ranking import Sized, by_size, ranking
from kdzero_gp.search.seeds import BASELINE, FRESH, PRUNING, RACE
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, StoredBirth, StoredEvaluation
from kdzero_gp.training.verdict import Verdict

# The kinds of training whose cost is kept, in the order of a run, and what they are called.
COST_KINDS = {
    BASELINE: ALONE_TEXT, "zoo": "published methods", "evaluation": "candidates", RACE: "race",
    PRUNING: "pruning", FRESH: "confirmation",
}  # fmt: skip
TOP = 10
# A picture that would be too small on a phone is drawn in two widths, in pixels.
WIDTHS = (860.0, 340.0)


@dataclass(frozen=True)
class Snapshot:
    """A run's rows and what follows from them. ``top``: the best evolved distillers, those of the race by its result,
    then by fitness; ``knowledge``: the types of the pair's knowledge, None before the pair was measured; ``fresh`` and
    ``verdict``: the finalists on fresh seeds and what they say; ``pruning``: what ablation left of the winner;
    ``sizes``: the best distiller of each number of operations; ``pictures`` and ``final``: what networks of the race
    and of ``--final`` predict; ``by_class``: the measures of ``classes`` by the networks' names, mean and half-width on
    validation images."""

    folder: Path
    settings: RunSettings
    versions: Mapping[str, str]
    bench: Mapping[str, Any]
    finished: bool
    births: Sequence[StoredBirth]
    evaluations: Sequence[StoredEvaluation]
    table: Sequence[RaceResult]
    top: Sequence[Competitor]
    costs: Mapping[str, Sequence[tuple[float, float]]]
    knowledge: KnowledgeTypes | None
    fresh: Sequence[RaceResult] = ()
    verdict: Verdict | None = None
    pruning: Pruning | None = None
    sizes: Sequence[Sized] = ()
    classes: Sequence[str] = ()
    pictures: Predictions | None = None
    final: Predictions | None = None
    by_class: Mapping[str, Mapping[int, tuple[float, float]]] = field(default_factory=dict)

    @property
    def raced(self) -> list[RaceResult]:
        """The standings that have a result."""
        return [standing for standing in self.table if not standing.reason]

    @property
    def winner(self) -> Competitor | None:
        """The best evolved distiller so far."""
        return self.top[0] if self.top else None

    def standing(self, entry: Competitor) -> RaceResult | None:
        """The result of an entry in the race, None where it has none."""
        return next((s for s in self.raced if s.entry.name == entry.name), None)


def read_snapshot(folder: Path) -> Snapshot:
    """Read a run, finished or not. Raises ``RunError`` where there is none."""
    with Database.read(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        table = standings(database, settings)  # reads and drops all rows, so before ours
        ranked = ranking(database, settings)
        births = database.births()  # before the evaluations, so that every birth is judged
        evaluations = [replace(row, metrics={}) for row in database.evaluations()]  # no panel needs them
        bench = database.fact("bench") or {}
        shown = students(database, settings) if draws(settings.family) or settings.family.of_class else {}
        return Snapshot(
            folder, settings, database.fact("versions") or {}, bench, bool(database.fact("finished")), births,
            evaluations, table, [row.competitor for row in ranked[:TOP]],
            {kind: database.costs(kind) for kind in COST_KINDS},
            _knowledge(settings, bench), confirmation(database, settings), verdict(database, settings),
            pruning(database, settings), by_size(ranked), (database.fact("data") or {}).get("classes", ()),
            of_run(folder, shown), Predictions.load(folder / FINAL / FILE), by_class(database, settings, shown),
        )  # fmt: skip


def _knowledge(settings: RunSettings, bench: Mapping[str, Any]) -> KnowledgeTypes | None:
    try:
        return settings.shapes(bench).types
    except (KdzeroError, KeyError):
        return None
