"""The search: DEAP's toolbox, aging, and one rule for reproducibility.

The search is a function of its settings and of what evaluation says about each expression; it keeps nothing on disk.
To resume, run it again and answer from the database what is known: the same births follow.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from deap import base, tools

from kdzero_gp.compiler.canonical import canonical, digest
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.evolution.grammar import Grammar, Slot
from kdzero_gp.evolution.individual import Birth, Individual, Score, same
from kdzero_gp.evolution.selection import select, survivors
from kdzero_gp.evolution.settings import SearchSettings
from kdzero_gp.evolution.shrinkage import Record
from kdzero_gp.evolution.variation import crossover, mutate, within_limits
from primitives import LOSS

# How often breeding tries again when a child is known already or breaks a limit.
TRIES = 12
# A new tree is at most this high: times, calibration, distance and a few transforms.
NEW_HEIGHT = 8


@dataclass
class Generation:
    """The state of a search after a generation."""

    number: int
    births: int
    statistics: dict[str, Any]
    best: Individual
    improved: bool


# Starts the evaluation of a new birth; the function it gives waits for the verdict.
Evaluate = Callable[[Birth], Callable[[], Score]]


@dataclass
class Search:
    """An evolution of distillers.

    ``evaluate`` is given each new expression once, in the order of births, and up to ``settings.window`` of them before
    the first verdict is asked for; verdicts are taken in the same order. ``seeds`` are put into the first population;
    ``on_birth`` hears of each birth when it is judged.
    """

    grammar: Grammar
    settings: SearchSettings
    evaluate: Evaluate
    seeds: Sequence[Expression] = ()
    on_birth: Callable[[Birth], None] | None = None

    population: list[Individual] = field(default_factory=list, init=False)
    verdicts: dict[str, Score] = field(default_factory=dict, init=False)
    first_birth: dict[str, int] = field(default_factory=dict, init=False)
    record: Record = field(default_factory=Record, init=False)
    births: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.settings.seed)
        self.grammar = self.grammar.with_own_weights()
        self.hall_of_fame = tools.HallOfFame(self.settings.hall_of_fame, similar=same)
        self.front = tools.ParetoFront(similar=same)
        self.logbook = tools.Logbook()
        self.genealogy: dict[int, tuple[int, ...]] = {}
        self.statistics = tools.Statistics(lambda individual: individual.verdict.fitness)
        for name, function in (("best", min), ("median", _median), ("worst", max)):
            self.statistics.register(name, function)
        self.toolbox = base.Toolbox()
        self.toolbox.register("select", select, settings=self.settings, random=self.random)
        self.toolbox.register("mate", crossover, random=self.random)
        self.toolbox.register("mutate", mutate, grammar=self.grammar, random=self.random)
        self.toolbox.register("evaluate", self.evaluate)
        self._seeds_left = deque(self.seeds)

    # --- one birth ------------------------------------------------------------------------------------------

    def _vary(self) -> tuple[Expression, str, tuple[int, ...]]:
        parent = self.toolbox.select(self.population)
        if self.random.random() < self.settings.crossover:
            other = self.toolbox.select(self.population)
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

    # --- the loop ------------------------------------------------------------------------------------------

    def _next(self) -> Birth:
        """The next birth; the first population is the seeds and random trees."""
        generation = self.births // self.settings.population
        while generation == 0 and self._seeds_left:
            # what finds no place is not born, so that it can be found later
            seed = self._seeds_left.popleft()
            if digest(seed) not in self.first_birth:
                return self._born(0, canonical(seed), "zoo", ())
        return self._breed(generation, self._invent if generation == 0 or self.settings.random_search else self._vary)

    def _settle(self, birth: Birth, pending: Callable[[], Score] | None) -> None:
        """Take the verdict on the oldest birth that has none, and let it into the population."""
        if pending is not None:
            self.verdicts[birth.digest] = pending()
        if self.on_birth is not None:
            self.on_birth(birth)
        verdict = self.verdicts[birth.digest]
        individual = Individual(self.grammar.to_nodes(birth.expression), birth, verdict)
        if birth.generation > 0 and not self.settings.random_search:
            self._learn(individual)
        if not verdict.rejected and not verdict.twin:
            self.hall_of_fame.update([Individual(individual, birth, verdict, scalar=True)])
            if self.settings.objectives:
                self.front.update([individual])
        if not verdict.twin or birth.generation == 0:
            self.population = survivors([*self.population, individual], self.settings)

    def _learn(self, child: Individual) -> None:
        """Shrinkage: operations of children that lose against the population's median are drawn less often."""
        median = _median([individual.verdict.fitness for individual in self.population])
        won = not child.verdict.rejected and child.verdict.fitness < median
        self.record.learn((node.name for node in child.birth.expression.walk() if node.arguments), won)
        if self.settings.shrink:
            self.grammar.weights.update({name: self.record.weight(name) for name in self.record.trials})

    def run(self) -> Iterator[Generation]:
        """Yield the state after each generation: ``population`` births. The first is random, with the seeds in it."""
        settings = self.settings
        best, since = math.inf, 0
        last = settings.generations * settings.population
        waiting: deque[tuple[Birth, Callable[[], Score] | None]] = deque()
        while self.births < last or waiting:
            while self.births < last and len(waiting) < settings.window:
                birth = self._next()
                waiting.append((birth, self.toolbox.evaluate(birth) if birth.duplicate_of is None else None))
            birth, pending = waiting.popleft()
            self._settle(birth, pending)
            number, place = divmod(birth.number + 1, settings.population)
            if place:
                continue
            record = self.statistics.compile(self.population)
            self.logbook.record(generation=number - 1, births=birth.number + 1, **record)
            leader = self.hall_of_fame[0] if len(self.hall_of_fame) else self.population[0]
            improved = leader.verdict.fitness < best
            best, since = min(best, leader.verdict.fitness), 0 if improved else since + 1
            yield Generation(number - 1, birth.number + 1, record, leader, improved)
            if settings.patience is not None and since >= settings.patience:
                # what is being evaluated already is judged; nothing new is bred
                last = self.births


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
