"""What decides a search besides its space."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdzero_gp.errors import SettingError

# Seeds below this leave room for those that are derived from them in torch's 64 bits.
SEEDS = 2**31
# NSGA-II's tournament looks at four individuals at a time.
DCD = 4


@dataclass(frozen=True)
class SearchSettings:
    """What decides a search besides its space. ``sample_ratio`` and ``top_k`` replace the tournament by the
    parent's selection of the supplement's Algorithm 1: a random part of the population, its best k, one of them.
    With ``objectives``, verdicts carry as many numbers and NSGA-II selects and removes instead. ``shrink``: operations
    whose descendants keep losing are drawn less often. ``random_search``: every birth is a new random tree,
    the baseline that evolution has to beat."""

    generations: int = 100
    population: int = 20
    seed: int = 0
    tournament: int = 5
    sample_ratio: float | None = None
    top_k: int = 5
    crossover: float = 0.3
    removal: str = "oldest"
    in_flight: int | None = None
    objectives: tuple[str, ...] = ()
    shrink: bool = True
    random_search: bool = False
    patience: int | None = None
    hall_of_fame: int = 50

    def __post_init__(self) -> None:
        checks = [
            (self.generations >= 1, f"--generations must be at least 1, got {self.generations}"),
            (self.population >= 2, f"--pop must be at least 2, to select from, got {self.population}"),
            (0 <= self.seed < SEEDS, f"--seed must lie in 0..{SEEDS - 1}, got {self.seed}"),
            (self.tournament >= 1, f"--tournament must be at least 1, got {self.tournament}"),
            (self.removal in ("oldest", "worst"), f"--removal must be oldest or worst, got {self.removal!r}"),
            (0 <= self.crossover <= 1, f"--crossover must lie in 0..1, got {self.crossover:g}"),
            (self.sample_ratio is None or 0 < self.sample_ratio <= 1,
             f"--sample-ratio must lie above 0 and not above 1, got {self.sample_ratio}"),
            (self.top_k >= 1, f"--top-k must be at least 1, got {self.top_k}"),
            (self.in_flight is None or 1 <= self.in_flight <= self.population,
             f"--in-flight must lie in 1..--pop, got {self.in_flight}"),
            (len(set(self.objectives)) == len(self.objectives) != 1,
             f"--objectives must name two or more different ones, got {', '.join(self.objectives)}"),
            (not self.objectives or self.population >= DCD,
             f"--pop must be at least {DCD} with --objectives, got {self.population}"),
            (self.patience is None or self.patience >= 1, f"--patience must be at least 1, got {self.patience}"),
        ]  # fmt: skip
        for holds, message in checks:
            if not holds:
                raise SettingError(message)

    @property
    def window(self) -> int:
        """Births that may be bred before the oldest of them is judged: birth n is bred when births up to n − window
        are. A quarter of the population keeps aging near to one by one while several workers have something to do.
        It does not depend on the number of workers, since then the run would."""
        return self.in_flight or max(1, math.ceil(self.population / 4))
