"""What decides a search besides its space."""

from __future__ import annotations

from dataclasses import dataclass

from kdzero_gp.errors import SettingError

# Seeds below this leave room for those that are derived from them in torch's 64 bits.
SEEDS = 2**31
# Births under way at once. The virtual clock keeps w workers 99 % busy with 2 w lanes and 94 % with w (simulated,
# experiments/scaling); more lanes are more births that know nothing of each other, and evolution is the poorer.
LANES = 5
# Generations between two migrations. Islands that exchange their best often are soon one population.
MIGRATION = 5
# NSGA-II's tournament looks at four individuals at a time.
DCD = 4


@dataclass(frozen=True)
class SearchSettings:
    """What decides a search besides its space. ``sample_ratio`` and ``top_k`` replace the tournament by the
    parent's selection of the supplement's Algorithm 1: a random part of the population, its best k, one of them.
    With ``objectives``, verdicts carry as many numbers and NSGA-II selects and removes instead. ``shrink``: operations
    whose descendants keep losing are drawn less often. ``lanes``: births under way at once on the virtual clock; they
    decide the run, workers do not. ``random_search``: every birth is a new random tree,
    the baseline that evolution has to beat. ``single_terms`` G: births of the first G generations but the published
    methods have one term, those of the next one are sums of two of the fittest so far, and so are some later ones.

    ``islands`` K: K populations of ``population`` individuals, each with ``lanes`` lanes. Birth n is one of island
    n mod K. Before the births n = m · ``MIGRATION`` · K · ``population``, m = 1, 2, …, are bred, the fittest individual
    of each island i enters island (i + 1) mod K, too, as its newest. So migration follows from the births alone."""

    generations: int = 100
    population: int = 20
    seed: int = 0
    tournament: int = 5
    sample_ratio: float | None = None
    top_k: int = 5
    crossover: float = 0.3
    removal: str = "oldest"
    lanes: int = LANES
    objectives: tuple[str, ...] = ()
    shrink: bool = True
    random_search: bool = False
    single_terms: int = 0
    islands: int = 1
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
            (0 <= self.single_terms < self.generations,
             f"--single-terms must be at least 0 and below --generations {self.generations}, got {self.single_terms}"),
            (self.top_k >= 1, f"--top-k must be at least 1, got {self.top_k}"),
            (self.lanes >= 1, f"--lanes must be at least 1, got {self.lanes}"),
            (self.islands >= 1, f"--islands must be at least 1, got {self.islands}"),
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
    def births_a_generation(self) -> int:
        """Births of a generation, of all islands."""
        return self.population * self.islands

    @property
    def births(self) -> int:
        """Births of the whole search, unless patience ends it."""
        return self.generations * self.births_a_generation

    @property
    def under_way(self) -> int:
        """Births under way at once, of all islands."""
        return self.lanes * self.islands
