"""Which distillers the study trains: published ones, random trees, and variations of good ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from trainings import Candidate

from kdzero_gp.compiler import canonical, digest, parse, zoo
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.evolution import Grammar, Slot
from kdzero_gp.evolution.variation import MUTATIONS, crossover, within_limits
from primitives import LOSS

CROSS_ENTROPY = Candidate("ce", "baseline")
# Random trees are grown to heights from this range.
HEIGHTS = (3, 4, 5, 6, 7, 8)
CROSSOVER_SHARE = 0.3


def published(names: Sequence[str], factors: Sequence[float]) -> list[Candidate]:
    """Published methods, the gradient of their whole sum ``factor`` times the cross-entropy's."""
    return [
        Candidate(f"{name}×{factor:g}", "zoo", str(zoo[name]), "joint", factor) for name in names for factor in factors
    ]


def _distinct(
    make: Callable[[], Expression | None], count: int, kind: str, mode: str, taken: set[str]
) -> list[Candidate]:
    found: list[Candidate] = []
    while len(found) < count:
        expression = make()
        if expression is None or digest(expression) in taken:
            continue
        taken.add(digest(expression))
        found.append(Candidate(digest(expression)[:12], kind, str(expression), mode))
    return found


def random_trees(grammar: Grammar, count: int, mode: str, seed: int, taken: set[str]) -> list[Candidate]:
    """Trees as a search's first generation draws them, none twice."""
    random = Random(seed)

    def make() -> Expression | None:
        nodes = grammar.grow(Slot(LOSS), random.choice(HEIGHTS), random)
        return within_limits(grammar.to_expression(nodes), grammar)

    return _distinct(make, count, "random", mode, taken)


def variations(
    grammar: Grammar, parents: Sequence[str], count: int, mode: str, seed: int, taken: set[str]
) -> list[Candidate]:
    """Children of ``parents`` (texts), by the search's own crossover and mutations."""
    random = Random(seed)
    pool = [
        nodes for text in parents if grammar.contains(e := canonical(parse(text))) for nodes in [grammar.to_nodes(e)]
    ]

    def make() -> Expression | None:
        if random.random() < CROSSOVER_SHARE:
            nodes, _ = crossover(random.choice(pool), random.choice(pool), random)
        else:
            mutations, weights = zip(*MUTATIONS.values(), strict=True)
            mutation = random.choices(mutations, weights)[0]
            nodes = mutation(random.choice(pool), grammar, random)
        return within_limits(grammar.to_expression(nodes), grammar)

    return _distinct(make, count, "varied", mode, taken)
