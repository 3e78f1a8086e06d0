"""The order in which births are judged: a clock that reads outcomes only, never the time.

A birth that ends in the screens costs one unit, a trained one as many as a training costs on average. As many births as
there are lanes are under way; one is judged when its units are over, and the next is bred then. The order of a run so
follows from what it finds, however many workers answer and however fast they are, and a dear birth holds up nobody.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from kdzero_gp.evolution.individual import Birth, Score

# What the screens cost; trainings are measured in it.
SCREENED = 1.0


def _screened() -> float:
    return SCREENED


@dataclass(frozen=True)
class Pending:
    """A birth that is being judged: ``score`` waits for its score, and ``units`` waits until it is known what it costs
    on the virtual clock: ``SCREENED``, or more for one that is trained."""

    score: Callable[[], Score]
    units: Callable[[], float] = _screened


class VirtualClock:
    """Births under way, in the order of their ends; of equal ends the first born is the first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ends: list[tuple[float, int, bool, Birth, Pending | None]] = []
        self._followers: dict[int, list[Birth]] = defaultdict(list)

    @property
    def busy(self) -> int:
        """How many lanes are taken."""
        return len(self._ends) + sum(map(len, self._followers.values()))

    def start(self, birth: Birth, pending: Pending) -> None:
        """A birth begins now."""
        heapq.heappush(self._ends, (self.now + SCREENED, birth.number, False, birth, pending))

    def repeat(self, birth: Birth, judged: bool) -> None:
        """A birth whose expression was born before takes no time of its own: it ends now, or when the first does."""
        if judged:
            heapq.heappush(self._ends, (self.now, birth.number, True, birth, None))
        else:
            assert birth.duplicate_of is not None
            self._followers[birth.duplicate_of].append(birth)

    def next(self) -> tuple[Birth, Pending | None]:
        """The birth that ends next, and what waits for its score (None: it was born before). Waits until it is known
        what the births before its end cost."""
        while True:
            self.now, number, known, birth, pending = heapq.heappop(self._ends)
            units = SCREENED if known or pending is None else pending.units()
            if units <= SCREENED:
                break
            heapq.heappush(self._ends, (self.now + units - SCREENED, number, True, birth, pending))
        for follower in self._followers.pop(birth.number, ()):
            self.repeat(follower, judged=True)
        return birth, pending
