"""Births, verdicts, and the DEAP individuals that carry both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from deap import base, gp

from kdzero_gp.compiler.expression import Expression
from kdzero_gp.evolution.variation import Nodes


@dataclass(frozen=True)
class Score:
    """What evaluation said of an expression: a fitness (lower is better), and a reason where it was rejected; in a
    search with several objectives their values too, each lower for better. ``twin``: a simpler expression, judged
    before, is the same distiller, so that this one takes no place in the population."""

    fitness: float
    reason: str = ""
    objectives: tuple[float, ...] = ()
    twin: bool = False

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


@lru_cache(maxsize=8)
def _fitness_class(values: int) -> type[base.Fitness]:
    """DEAP's fitness of so many values, all minimised."""
    return type("Fitness", (base.Fitness,), {"weights": (-1.0,) * values})


class Individual(gp.PrimitiveTree):
    """A DEAP tree that knows its birth and its verdict; its ``fitness`` are the objectives where there are several."""

    def __init__(self, nodes: Nodes, birth: Birth, verdict: Score, scalar: bool = False):
        super().__init__(nodes)
        self.birth = birth
        self.verdict = verdict
        values = (verdict.fitness,) if scalar or not verdict.objectives else verdict.objectives
        self.fitness = _fitness_class(len(values))(values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Individual:
        # DEAP's halls of fame copy what they keep; nodes, births and verdicts are never changed
        return Individual(self, self.birth, self.verdict, scalar=len(self.fitness.values) == 1)


def same(one: Individual, other: Individual) -> bool:
    """Whether two individuals are one distiller."""
    return one.birth.digest == other.birth.digest
