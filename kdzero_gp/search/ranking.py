"""The one ranking of a run's distillers, which every command, page and data frame goes by."""

from __future__ import annotations

from dataclasses import dataclass

from kdzero_gp.search.race import Competitor, RaceResult, standings
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredEvaluation


@dataclass(frozen=True)
class Ranked:
    """A distiller of the search at its ``rank``, counted from 1; ``result`` is its race's, None where it has none."""

    rank: int
    evaluation: StoredEvaluation
    result: RaceResult | None = None

    @property
    def competitor(self) -> Competitor:
        """It as an entry of a race."""
        e = self.evaluation
        return Competitor(e.digest, "evolved", e.expression, e.magnitudes, e.fitness)


def ranking(database: Database, settings: RunSettings) -> list[Ranked]:
    """The trained distillers of a run: those with a result of the race by that, then all others by fitness.

    One that has the gradient of an earlier one is the same distiller and does not come again.
    """
    trained = {e.digest: e for e in database.evaluations() if e.status is Status.TRAINED}
    results = {s.entry.name: s for s in standings(database, settings) if s.entry.kind == "evolved" and not s.reason}
    order = [*results, *(digest for digest in trained if digest not in results)]
    return [Ranked(rank, trained[digest], results.get(digest)) for rank, digest in enumerate(order, 1)]
