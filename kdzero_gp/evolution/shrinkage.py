"""Search-space shrinkage: operations whose descendants keep losing are drawn less often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

# No operation becomes rarer than this share of its first frequency, so that none is ever lost.
FLOOR = 0.2
# Every operation starts as if it had been seen so often, with the average record.
PRIOR = 20.0


@dataclass
class Record:
    """How the children with each operation did: ``trials`` counts them, ``wins`` those that were fitter than the
    median of the population they were born into."""

    trials: Counter[str] = field(default_factory=Counter)
    wins: Counter[str] = field(default_factory=Counter)
    children: int = 0
    winners: int = 0

    def learn(self, operations: Iterable[str], won: bool) -> None:
        """Take note of one child."""
        names = set(operations)
        self.children += 1
        self.trials.update(names)
        if won:
            self.winners += 1
            self.wins.update(names)

    def weights(self) -> dict[str, float]:
        """How often to draw each operation that was tried, relative to its first frequency: the share of its children
        that won, shrunk towards the average and divided by it, within [``FLOOR``, 1].

        >>> Record(Counter(pow4=80, kl=80), Counter(pow4=4, kl=60), children=160, winners=64).weights()
        {'pow4': 0.3, 'kl': 1.0}
        """
        if not self.winners:
            return dict.fromkeys(self.trials, 1.0)
        average, wins = self.winners / self.children, self.wins
        found = {}
        for name, trials in self.trials.items():
            rate = (wins[name] + PRIOR * average) / (trials + PRIOR) / average
            found[name] = 1.0 if rate > 1.0 else FLOOR if rate < FLOOR else rate
        return found
