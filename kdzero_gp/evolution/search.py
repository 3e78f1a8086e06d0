"""The search: DEAP's toolbox, aging, and one rule for reproducibility.

The search is a function of its settings and of what evaluation says about each expression; it keeps nothing on disk.
To resume, run it again and answer from the database what is known: the same births follow.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Protocol

from deap import base, tools

from kdzero_gp.compiler.canonical import canonical, digest
from kdzero_gp.compiler.expression import Expression, terms
from kdzero_gp.evolution.clock import Pending, VirtualClock
from kdzero_gp.evolution.grammar import Grammar, Slot
from kdzero_gp.evolution.individual import Birth, Individual, Score, same
from kdzero_gp.evolution.selection import select, survivors
from kdzero_gp.evolution.settings import MIGRATION, SearchSettings
from kdzero_gp.evolution.shrinkage import Record
from kdzero_gp.evolution.variation import MUTATIONS, Mutation, crossover, within_limits
from primitives import LOSS

# How often breeding tries again when a child is known already or breaks a limit.
TRIES = 12
# A new tree is at most this high: times, calibration, distance and a few transforms.
NEW_HEIGHT = 8
# How often two of the fittest are added up, beside the other ways, in a search that began with single terms.
SUMS = 0.2


@dataclass
class Generation:
    """The state of a search after a generation: so many births are judged; ``best`` is the best of them."""

    number: int
    births: int
    best: Individual
    improved: bool


# Starts the evaluation of a new birth.
Evaluate = Callable[[Birth], Pending]
# A new expression and the numbers of its parents.
Proposal = tuple[Expression, tuple[int, ...]]


@dataclass(frozen=True)
class Proposer:
    """Where births come from: ``name`` is what a birth's operator is called, ``weight`` how often it is asked among
    the others, and ``propose`` gives a child."""

    name: str
    weight: float
    propose: Callable[[], Proposal]


class Guest(Protocol):
    """A source of births from elsewhere, asked by draws of its own and not the search's: the births that it has nothing
    for are those of a search without it. ``name`` is what a birth's operator is called, ``share`` how many births it is
    asked for."""

    name: str
    share: float

    def propose(self, birth: int, known: Collection[str]) -> Proposal | None:
        """A new distiller for the birth with this number, in canonical form and within the limits; ``known`` are the
        digests of those that were born."""


@dataclass
class Search:
    """An evolution of distillers.

    ``evaluate`` is given each new expression once, in the order of births, while up to ``settings.under_way`` births
    are under way; they are judged in the order of the virtual clock. ``seeds`` are put into the first population;
    ``on_birth`` hears of each birth when it is judged. A ``guest`` is asked for births beside the proposers.
    """

    grammar: Grammar
    settings: SearchSettings
    evaluate: Evaluate
    seeds: Sequence[Expression] = ()
    on_birth: Callable[[Birth], None] | None = None
    guest: Guest | None = None

    islands: list[list[Individual]] = field(init=False)
    scores: dict[str, Score] = field(default_factory=dict, init=False)
    first_birth: dict[str, int] = field(default_factory=dict, init=False)
    record: Record = field(default_factory=Record, init=False)
    births: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.settings.seed)
        self.islands = [[] for _ in range(self.settings.islands)]
        self.grammar = self.grammar.with_own_weights()
        self.hall_of_fame = tools.HallOfFame(self.settings.hall_of_fame, similar=same)
        self.toolbox = base.Toolbox()
        self.toolbox.register("select", select, settings=self.settings, random=self.random)
        self.toolbox.register("mate", crossover, random=self.random)
        self.toolbox.register("evaluate", self.evaluate)
        self._seeds_left = deque(self.seeds)
        mated = self.settings.crossover
        self.proposers = [
            Proposer("crossover", mated, self._crossed),
            *(
                Proposer(name, (1 - mated) * weight, partial(self._mutated, mutation))
                for name, (mutation, weight) in MUTATIONS.items()
            ),
        ]
        # sums of what was found term by term
        self.adders = [Proposer("sum", SUMS, self._summed)]
        if self.settings.single_terms:
            self.proposers += self.adders
        # the first population, and random search, know no parents
        self.inventors = [Proposer("random", 1.0, self._invented)]

    @property
    def population(self) -> list[Individual]:
        """The individuals of all islands."""
        return [individual for island in self.islands for individual in island]

    def population_of(self, birth: Birth) -> list[Individual]:
        """The individuals of the island that a birth belongs to."""
        return self.islands[birth.number % len(self.islands)]

    # --- one birth ------------------------------------------------------------------------------------------

    @property
    def _home(self) -> list[Individual]:
        """The population that the next birth is bred from."""
        return self.islands[self.births % len(self.islands)]

    def _crossed(self) -> Proposal:
        mother, father = self.toolbox.select(self._home), self.toolbox.select(self._home)
        child, _ = self.toolbox.mate(list(mother), list(father))
        return self.grammar.to_expression(child), (mother.birth.number, father.birth.number)

    def _mutated(self, mutation: Mutation) -> Proposal:
        parent = self.toolbox.select(self._home)
        child = mutation(list(parent), self.grammar, self.random)
        return self.grammar.to_expression(child), (parent.birth.number,)

    def _summed(self) -> Proposal:
        fittest = list(self.hall_of_fame)[: self.settings.population]
        mother, father = self.random.sample(fittest, 2) if len(fittest) > 1 else (self.toolbox.select(self._home),) * 2
        whole = Expression("add", (mother.birth.expression, father.birth.expression))
        return whole, (mother.birth.number, father.birth.number)

    def _invented(self, height: int = NEW_HEIGHT) -> Proposal:
        return self.grammar.to_expression(self.grammar.grow(Slot(LOSS), height, self.random)), ()

    def _breed(self, generation: int, proposers: Sequence[Proposer]) -> Birth:
        """A child within the limits, new if that can be had in a few tries."""
        duplicate: tuple[Expression, str, tuple[int, ...]] | None = None
        for _ in range(TRIES):
            proposer = self.random.choices(proposers, [proposer.weight for proposer in proposers])[0]
            expression, parents = proposer.propose()
            simplest = within_limits(expression, self.grammar)
            if simplest is None:
                continue
            if generation < self.settings.single_terms:
                simplest = canonical(self.random.choice(terms(simplest)))
            if digest(simplest) not in self.first_birth:
                return self._born(generation, simplest, proposer.name, parents)
            duplicate = (simplest, proposer.name, parents)
        if duplicate is None:
            # nothing kept the limits: one of the lowest trees, which are the smallest too
            duplicate = (canonical(self._invented(0)[0]), self.inventors[0].name, ())
        return self._born(generation, *duplicate)

    def _born(self, generation: int, expression: Expression, operator: str, parents: tuple[int, ...]) -> Birth:
        name = digest(expression)
        first = self.first_birth.get(name)
        birth = Birth(self.births, generation, operator, parents, expression, name, first)
        self.first_birth.setdefault(name, birth.number)
        self.births += 1
        return birth

    # --- the loop ------------------------------------------------------------------------------------------

    def _next(self) -> Birth:
        """The next birth; the first population is the seeds and random trees, and where there are so many lanes that
        less than half of a population is judged, random trees go on."""
        generation = self.births // self.settings.births_a_generation
        while generation == 0 and self._seeds_left:
            # what finds no place is not born, so that it can be found later
            seed = self._seeds_left.popleft()
            if digest(seed) not in self.first_birth:
                return self._born(0, canonical(seed), "zoo", ())
        if generation == 0 or self.settings.random_search or 2 * len(self._home) < self.settings.population:
            return self._breed(generation, self.inventors)
        proposers = self.adders if 0 < generation == self.settings.single_terms else self.proposers
        return self._invited(generation) or self._breed(generation, proposers)

    def _invited(self, generation: int) -> Birth | None:
        """A birth of the guest's, where the draw falls on it and it has one."""
        guest = self.guest
        if guest is None or Random(f"{self.settings.seed}/{self.births}").random() >= guest.share:
            return None
        proposal = guest.propose(self.births, self.first_birth.keys())
        return None if proposal is None else self._born(generation, proposal[0], guest.name, proposal[1])

    def _begin(self, clock: VirtualClock, birth: Birth) -> None:
        """Have a birth judged, unless its expression is already."""
        if birth.duplicate_of is None:
            clock.start(birth, self.toolbox.evaluate(birth))
        else:
            clock.repeat(birth, birth.digest in self.scores)

    def _settle(self, birth: Birth, pending: Pending | None) -> None:
        """Take the score of a birth, and let it into the population."""
        if pending is not None:
            self.scores[birth.digest] = pending.score()
        if self.on_birth is not None:
            self.on_birth(birth)
        score = self.scores[birth.digest]
        individual = Individual(self.grammar.to_nodes(birth.expression), birth, score)
        place = birth.number % len(self.islands)
        if birth.generation > 0 and self.islands[place] and not self.settings.random_search:
            self._learn(individual, self.islands[place])
        if score.measured and not score.superfluous:
            self.hall_of_fame.update([Individual(individual, birth, score, scalar=True)])
        if not score.superfluous or birth.generation == 0:
            self.islands[place] = survivors([*self.islands[place], individual], self.settings)

    def _migrate(self) -> None:
        """Let the fittest of each island enter the next one, at fixed numbers of births."""
        period = MIGRATION * self.settings.births_a_generation
        if len(self.islands) == 1 or self.births == 0 or self.births % period:
            return
        best = [min(island, key=_rank) if island else None for island in self.islands]
        for place, migrant in enumerate(best):
            target = (place + 1) % len(self.islands)
            if migrant is not None and not any(same(migrant, known) for known in self.islands[target]):
                self.islands[target] = survivors([*self.islands[target], copy.deepcopy(migrant)], self.settings)

    def _learn(self, child: Individual, population: Sequence[Individual]) -> None:
        """Shrinkage: operations of children that lose against the population's median are drawn less often."""
        ranked = sorted(individual.score.fitness for individual in population)
        won = child.score.measured and child.score.fitness < ranked[len(ranked) // 2]
        self.record.learn((node.name for node in child.birth.expression.walk() if node.arguments), won)
        if self.settings.shrink:
            self.grammar.weights.update(self.record.weights())

    def run(self) -> Iterator[Generation]:
        """Yield the state after each generation: ``population`` births of each island that are judged. The first is
        random, with the seeds in it."""
        settings, clock = self.settings, VirtualClock()
        best, since, judged = math.inf, 0, 0
        last = settings.births
        while self.births < last or clock.busy:
            while self.births < last and clock.busy < settings.under_way:
                self._migrate()
                self._begin(clock, self._next())
            self._settle(*clock.next())
            judged += 1
            number, place = divmod(judged, settings.births_a_generation)
            if place:
                continue
            leader = self.hall_of_fame[0] if len(self.hall_of_fame) else self.population[0]
            improved = leader.score.fitness < best
            best, since = min(best, leader.score.fitness), 0 if improved else since + 1
            yield Generation(number - 1, judged, leader, improved)
            if settings.patience is not None and since >= settings.patience:
                # what is being evaluated already is judged; nothing new is bred
                last = self.births


def _rank(individual: Individual) -> tuple[float, int]:
    """The order in which an island's individuals leave for another: by fitness, of equals the earlier birth."""
    return individual.score.fitness, individual.birth.number
