"""Births, scores, and the DEAP individuals that carry both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from deap import base, gp

from kdzero_gp.compiler.expression import Expression
from kdzero_gp.evolution.variation import Nodes


@dataclass(frozen=True)
class Score:
    """What evaluation said of an expression: a fitness (lower is better), and whether it was ``measured``, in contrast
    to predicted or given for a failure; in a search with several objectives their values too, each lower for better.
    ``superfluous``: it takes no place in the population, since a simpler expression, judged before, is the same
    distiller, or a judge found it less fit than another."""

    fitness: float
    measured: bool = True
    objectives: tuple[float, ...] = ()
    superfluous: bool = False


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


@lru_cache(maxsize=8)
def fitness_class(values: int) -> type[base.Fitness]:
    """DEAP's fitness of so many values, all minimised."""
    return type("Fitness", (base.Fitness,), {"weights": (-1.0,) * values})


class Individual(gp.PrimitiveTree):
    """A DEAP tree that knows its birth and its score; its ``fitness`` are the objectives where there are several."""

    def __init__(self, nodes: Nodes, birth: Birth, score: Score, scalar: bool = False):
        super().__init__(nodes)
        self.birth = birth
        self.score = score
        values = (score.fitness,) if scalar or not score.objectives else score.objectives
        self.fitness = fitness_class(len(values))(values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Individual:
        # DEAP's halls of fame copy what they keep; nodes, births and scores are never changed
        return Individual(self, self.birth, self.score, scalar=len(self.fitness.values) == 1)


def same(left: Individual, right: Individual) -> bool:
    """Whether two individuals are one distiller."""
    return left.birth.digest == right.birth.digest
