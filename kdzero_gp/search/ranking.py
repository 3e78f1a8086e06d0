"""The one ranking of a run's distillers, which every command, page and data frame goes by."""

from __future__ import annotations

from collections.abc import Sequence
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
        return Competitor.of(self.evaluation)


def ranking(database: Database, settings: RunSettings) -> list[Ranked]:
    """The trained distillers of a run: those with a result of the race by that, then all others by fitness.

    One that has the gradient of an earlier one is the same distiller and does not come again.
    """
    trained = {e.digest: e for e in database.evaluations() if e.status is Status.TRAINED}
    results = {s.entry.name: s for s in standings(database, settings) if s.entry.kind == "evolved" and not s.reason}
    order = [*results, *(digest for digest in trained if digest not in results)]
    return [Ranked(rank, trained[digest], results.get(digest)) for rank, digest in enumerate(order, 1)]


@dataclass(frozen=True)
class Sized:
    """The best distiller of a number of ``operations``; ``leads`` where no smaller one is ranked above it."""

    operations: int
    ranked: Ranked
    leads: bool


def operations_in(expression: str) -> int:
    """How many operations a distiller has, sums of its terms not counted.

    >>> operations_in("add(times(no(l2(emb)), 1), times(no(kl(softmax_C(logits, 4))), 1))")
    7
    """
    return expression.count("(") - expression.count("add(")


def by_size(ranked: Sequence[Ranked]) -> list[Sized]:
    """For each number of operations the best distiller by the ranking, the smallest first."""
    best: dict[int, Ranked] = {}
    for row in ranked:
        best.setdefault(operations_in(row.evaluation.expression), row)
    found, first = [], len(ranked) + 1
    for operations, row in sorted(best.items()):
        found.append(Sized(operations, row, row.rank < first))
        first = min(first, row.rank)
    return found
