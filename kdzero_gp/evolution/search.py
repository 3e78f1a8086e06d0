"""The search: DEAP's toolbox, aging, and one rule for reproducibility.

The search is a function of its settings and of what evaluation says about each expression; it keeps nothing on disk.
To resume, run it again and answer from the database what is known: the same births follow.
"""

from __future__ import annotations

import contextlib
import math
import random as global_random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from deap import base, gp, tools

from kdzero_gp.compiler.canonical import canonical, digest
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.errors import SettingError
from kdzero_gp.evolution.grammar import Grammar, Slot
from kdzero_gp.evolution.variation import Nodes, crossover, mutate, within_limits
from primitives import LOSS

# How often breeding tries again when a child is known already or breaks a limit.
TRIES = 12
# Seeds below this leave room for those that are derived from them in torch's 64 bits.
SEEDS = 2**31
# A new tree is at most this high: times, calibration, distance and a few transforms.
NEW_HEIGHT = 8


@dataclass(frozen=True)
class SearchSettings:
    """What decides a search besides its space. ``sample_ratio`` and ``top_k`` replace the tournament by the
    parent's selection of the supplement's Algorithm 1: a random part of the population, its best k, one of them."""

    generations: int = 100
    population: int = 20
    seed: int = 0
    tournament: int = 5
    sample_ratio: float | None = None
    top_k: int = 5
    crossover: float = 0.3
    removal: str = "oldest"
    births_per_step: int | None = None
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
            (self.births_per_step is None or self.births_per_step >= 1, "births_per_step must be at least 1"),
            (self.patience is None or self.patience >= 1, f"--patience must be at least 1, got {self.patience}"),
        ]  # fmt: skip
        for holds, message in checks:
            if not holds:
                raise SettingError(message)

    @property
    def step(self) -> int:
        """Births that are bred from one state of the population and evaluated together: a quarter of it, so that
        aging stays near to one by one while several workers have something to do. It does not depend on the number
        of workers, since then the run would."""
        return self.births_per_step or max(1, math.ceil(self.population / 4))


@dataclass(frozen=True)
class Verdict:
    """What evaluation said of an expression: a fitness (lower is better), or a reason for its rejection."""

    fitness: float
    reason: str = ""

    @property
    def rejected(self) -> bool:
        return bool(self.reason)


@dataclass(frozen=True)
class Birth:
    """One child: where it comes from and what it is."""

    number: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    expression: Expression
    digest: str
    duplicate_of: int | None = None


class Fitness(base.Fitness):
    """DEAP's fitness, minimised."""

    weights = (-1.0,)


class Individual(gp.PrimitiveTree):
    """A DEAP tree that knows its birth."""

    def __init__(self, nodes: Nodes, birth: Birth):
        super().__init__(nodes)
        self.birth = birth
        self.fitness = Fitness()

    def __deepcopy__(self, memo: dict[int, Any]) -> Individual:
        # DEAP's hall of fame copies what it keeps; nodes and births are never changed
        copy = Individual(self, self.birth)
        copy.fitness.values = self.fitness.values
        return copy


@dataclass
class Generation:
    """The state of a search after a generation."""

    number: int
    births: int
    statistics: dict[str, Any]
    best: Individual
    improved: bool


Evaluate = Callable[[Sequence[Birth]], Sequence[Verdict]]


@contextlib.contextmanager
def borrowed(random: Random) -> Iterator[None]:
    """Let DEAP's own functions, which use the global generator, draw from ``random``."""
    state = global_random.getstate()
    global_random.setstate(random.getstate())
    try:
        yield
    finally:
        random.setstate(global_random.getstate())
        global_random.setstate(state)


@dataclass
class Search:
    """An evolution of distillers. ``evaluate`` gives verdicts on new births, in their order; it is never asked about
    an expression that it has judged. ``seeds`` are put into the first population; with ``random_search`` every birth
    is a new random tree; ``on_births`` hears of births when they are judged."""

    grammar: Grammar
    settings: SearchSettings
    evaluate: Evaluate
    seeds: Sequence[Expression] = ()
    random_search: bool = False
    on_births: Callable[[Sequence[Birth]], None] | None = None

    population: list[Individual] = field(default_factory=list, init=False)
    verdicts: dict[str, Verdict] = field(default_factory=dict, init=False)
    first_birth: dict[str, int] = field(default_factory=dict, init=False)
    births: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.settings.seed)
        self.hall_of_fame = tools.HallOfFame(self.settings.hall_of_fame, similar=_same)
        self.logbook = tools.Logbook()
        self.genealogy: dict[int, tuple[int, ...]] = {}
        self.statistics = tools.Statistics(lambda individual: individual.fitness.values[0])
        for name, function in (("best", min), ("median", _median), ("worst", max)):
            self.statistics.register(name, function)
        self.toolbox = base.Toolbox()
        self.toolbox.register("select", self._select)
        self.toolbox.register("mate", crossover, random=self.random)
        self.toolbox.register("mutate", mutate, grammar=self.grammar, random=self.random)
        self.toolbox.register("evaluate", self.evaluate)

    # --- one birth ------------------------------------------------------------------------------------------

    def _select(self) -> Individual:
        settings = self.settings
        with borrowed(self.random):
            if settings.sample_ratio is None:
                return tools.selTournament(self.population, 1, tournsize=settings.tournament)[0]
            sample = tools.selRandom(self.population, max(1, round(settings.sample_ratio * len(self.population))))
            return tools.selRandom(tools.selBest(sample, settings.top_k), 1)[0]

    def _vary(self) -> tuple[Expression, str, tuple[int, ...]]:
        parent = self.toolbox.select()
        if self.random.random() < self.settings.crossover:
            other = self.toolbox.select()
            child, _ = self.toolbox.mate(list(parent), list(other))
            return self.grammar.to_expression(child), "crossover", (parent.birth.number, other.birth.number)
        child, operator = self.toolbox.mutate(list(parent))
        return self.grammar.to_expression(child), operator, (parent.birth.number,)

    def _invent(self, height: int = NEW_HEIGHT) -> tuple[Expression, str, tuple[int, ...]]:
        nodes = self.grammar.grow(Slot(LOSS), height, self.random)
        return self.grammar.to_expression(nodes), "random", ()

    def _breed(self, generation: int, propose: Callable[[], tuple[Expression, str, tuple[int, ...]]]) -> Birth:
        """A child within the limits, new if that can be had in a few tries."""
        known: tuple[Expression, str, tuple[int, ...]] | None = None
        for _ in range(TRIES):
            expression, operator, parents = propose()
            simplest = within_limits(expression, self.grammar)
            if simplest is None:
                continue
            if digest(simplest) not in self.first_birth:
                return self._born(generation, simplest, operator, parents)
            known = (simplest, operator, parents)
        if known is None:
            # nothing kept the limits: one of the lowest trees, which are the smallest too
            expression, operator, parents = self._invent(0)
            known = (canonical(expression), operator, parents)
        return self._born(generation, *known)

    def _born(self, generation: int, expression: Expression, operator: str, parents: tuple[int, ...]) -> Birth:
        name = digest(expression)
        first = self.first_birth.get(name)
        birth = Birth(self.births, generation, operator, parents, expression, name, first)
        self.first_birth.setdefault(name, birth.number)
        self.genealogy[birth.number] = parents
        self.births += 1
        return birth

    # --- the loop -------------------------------------------------------------------------------------------

    def _judge(self, births: list[Birth]) -> list[Individual]:
        new = [birth for birth in births if birth.duplicate_of is None]
        for birth, verdict in zip(new, self.toolbox.evaluate(new), strict=True):
            self.verdicts[birth.digest] = verdict
        if self.on_births is not None:
            self.on_births(births)
        individuals = []
        for birth in births:
            individual = Individual(self.grammar.to_nodes(birth.expression), birth)
            individual.fitness.values = (self.verdicts[birth.digest].fitness,)
            individuals.append(individual)
        self.hall_of_fame.update([i for i in individuals if not self.verdicts[i.birth.digest].rejected])
        return individuals

    def _age(self) -> None:
        while len(self.population) > self.settings.population:
            if self.settings.removal == "oldest":
                self.population.pop(0)
            else:
                # among equals the oldest goes
                worst = max(self.population, key=lambda i: (i.fitness.values[0], -i.birth.number))
                self.population.remove(worst)

    def _first_generation(self) -> list[Birth]:
        births: list[Birth] = []
        for seed in self.seeds:
            # what finds no place is not born, so that it can be found later
            if len(births) < self.settings.population and digest(seed) not in self.first_birth:
                births.append(self._born(0, canonical(seed), "zoo", ()))
        while len(births) < self.settings.population:
            births.append(self._breed(0, self._invent))
        return births

    def run(self) -> Iterator[Generation]:
        """Yield the state after each generation: ``population`` births. The first is random, with the seeds in it."""
        settings = self.settings
        best, since = math.inf, 0
        for number in range(settings.generations):
            if number == 0:
                self.population = self._judge(self._first_generation())
            else:
                left = settings.population
                while left:
                    count = min(left, settings.step)
                    propose = self._invent if self.random_search else self._vary
                    self.population += self._judge([self._breed(number, propose) for _ in range(count)])
                    self._age()
                    left -= count
            record = self.statistics.compile(self.population)
            self.logbook.record(generation=number, births=self.births, **record)
            leader = self.hall_of_fame[0] if len(self.hall_of_fame) else self.population[0]
            improved = leader.fitness.values[0] < best
            best, since = min(best, leader.fitness.values[0]), 0 if improved else since + 1
            yield Generation(number, self.births, record, leader, improved)
            if settings.patience is not None and since >= settings.patience:
                return


def _same(one: Individual, other: Individual) -> bool:
    return one.birth.digest == other.birth.digest


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
