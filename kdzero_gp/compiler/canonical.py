"""One form for trees that mean the same: sums sorted, equal losses put together, operations without effect removed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

from kdzero_gp.compiler.expression import Expression, summed, terms
from primitives import CATALOGUE, MAGNITUDES

# kl works in the log domain by itself, so that both spellings are one distiller.
_LOGARITHM_OF = {operation.log_form: operation.name for operation in CATALOGUE if operation.log_form}


def _simplify(node: Expression) -> Expression:
    """One step at the root of ``node``, whose arguments are canonical already."""
    first = node.arguments[0]
    assert isinstance(first, Expression)
    operation, below = CATALOGUE[node.name], CATALOGUE[first.name] if first.arguments else None
    if operation.identity or _divides_by_one(node, first):
        return first
    if operation.written_as:
        return Expression(operation.written_as, node.arguments)
    if below is None:
        return node
    if operation.idempotent and below is operation:
        return first
    if operation.keeps_non_negative and below.non_negative:
        return first
    if operation.flattening and below.layout:
        return Expression(node.name, (first.arguments[0], *node.arguments[1:]))
    if below.name in _LOGARITHM_OF:
        softmax = Expression(_LOGARITHM_OF[below.name], first.arguments)
        if operation.compares_distributions:
            return Expression(node.name, (softmax,))
        if operation.undoes_log(next(iter(below.overloads.values()))):
            return softmax
    return node


def _divides_by_one(node: Expression, first: Expression) -> bool:
    """Whether a division of ``first`` by 1 changes neither the value, nor the kind, nor the temperature of the
    distance's T²."""
    if not CATALOGUE[node.name].division or node.arguments[1] != 1.0:
        return False
    return all(len(n.arguments) < 2 and not CATALOGUE[n.name].normalises for n in first.walk() if n.arguments)


@lru_cache(maxsize=65536)
def canonical(root: Expression) -> Expression:
    """The canonical form of a well-typed tree: the same value and gradient, no operation without effect, the terms
    of a sum in the order of their text, sums leaning to the left, and a loss that stands in a sum at several magnitudes
    once at their sum, where that is a listed one.

    >>> from kdzero_gp.compiler.parsing import parse
    >>> str(canonical(parse("times(no(l2(abs(pow2(scale_r1(feat))))), 1)")))
    'times(no(l2(pow2(feat))), 1)'
    """
    if root.name == "add":
        return summed(sorted(_merged(canonical(term) for term in terms(root)), key=str))
    if not root.arguments:
        return root
    node = Expression(root.name, tuple(canonical(a) if isinstance(a, Expression) else a for a in root.arguments))
    simpler = _simplify(node)
    while simpler is not node and simpler.arguments:
        node, simpler = simpler, _simplify(simpler)
    return simpler


def _merged(parts: Iterable[Expression]) -> Iterator[Expression]:
    """Terms with the same loss as one. Whatever the mode, each magnitude is multiplied by the same number: by 1, by
    what the gradient of that loss measures, or by what that of the whole does; so their sum gives the same gradient."""
    by_loss: dict[Expression | float, list[Expression]] = {}
    for term in parts:
        by_loss.setdefault(term.arguments[0], []).append(term)
    for loss, same in by_loss.items():
        total = math.fsum(float(term.arguments[1]) for term in same)  # type: ignore[arg-type]
        listed = next((magnitude for magnitude in MAGNITUDES if math.isclose(magnitude, total)), None)
        yield from same if listed is None else [Expression("times", (loss, listed))]


def repeats_a_loss(root: Expression) -> bool:
    """Whether a loss stands in a canonical sum more than once: its magnitudes add up to none that is listed."""
    losses = [term.arguments[0] for term in terms(root)]
    return len(set(losses)) < len(losses)


def digest(root: Expression) -> str:
    """Sixteen hexadecimal digits that name the canonical form."""
    return hashlib.sha256(str(canonical(root)).encode()).hexdigest()[:16]
