"""One form for all trees that mean the same: sums sorted, operations without effect removed."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from kdzero_gp.compiler.expression import Expression, terms
from primitives import CATALOGUE

# No effect on any input.
_IDENTITIES = {"scale_r1", "channel"}
# Applying one of these twice is applying it once.
_IDEMPOTENT = {
    "abs",
    "relu",
    "norm_HW",
    "norm_C",
    "norm_N",
    "min_max_normalize",
    "proportion_C",
    "pool_2",
    "pool_4",
}
# No effect on the values of these, which are never negative.
_KEEP_NON_NEGATIVE = {"abs", "relu", "leaky_relu"}
_NON_NEGATIVE = {
    *("exp", "sigmoid", "abs", "relu", "pow2", "pow4", "satt", "natt", "catt", "min_max_normalize", "pdist"),
    *("softmax_N", "softmax_C", "softmax_HW", "proportion_C"),
}
# The first only change where a number stands (none of them pads), and the second flatten by themselves. The distances
# that average over all places are not among them: whether shapes agree without an adapter depends on the layout.
_LAYOUTS = {"batch", "local_s1"}
_FLATTENING = {"mm", "pdist"}
# kl works in the log domain by itself, so that both spellings are one distiller.
_KL = {"kl", "kl_mean", "soft_cross_entropy"}


def _simplify(node: Expression) -> Expression:
    """One step at the root of ``node``, whose arguments are canonical already."""
    first = node.arguments[0]
    assert isinstance(first, Expression)
    if node.name in _IDENTITIES or _divides_by_one(node, first):
        return first
    if node.name in _IDEMPOTENT and first.name == node.name:
        return first
    if node.name in _KEEP_NON_NEGATIVE and first.name in _NON_NEGATIVE:
        return first
    if node.name == "local_s1":
        return Expression("batch", node.arguments)
    if node.name in _FLATTENING and first.name in _LAYOUTS:
        return Expression(node.name, (first.arguments[0], *node.arguments[1:]))
    if node.name in _KL and first.name.startswith("logsoftmax_"):
        return Expression(node.name, (Expression(first.name.removeprefix("log"), first.arguments),))
    if node.name == "exp" and first.name.startswith("logsoftmax_"):
        return Expression(first.name.removeprefix("log"), first.arguments)
    return node


def _divides_by_one(node: Expression, first: Expression) -> bool:
    """Whether ``over(first, 1)`` changes neither the value, nor the kind, nor the temperature of the distance's T²."""
    plain = all(len(n.arguments) < 2 and n.name != "proportion_C" for n in first.walk())
    return node.name == "over" and node.arguments[1] == 1.0 and plain


@lru_cache(maxsize=65536)
def canonical(root: Expression) -> Expression:
    """The canonical form of a well-typed tree: the same value and gradient, no operation without effect, the terms
    of a sum in the order of their text, sums leaning to the left.

    >>> from kdzero_gp.compiler.parsing import parse
    >>> str(canonical(parse("times(no(l2(abs(pow2(scale_r1(feat))))), 1)")))
    'times(no(l2(pow2(feat))), 1)'
    """
    if root.name == "add":
        return _sum(sorted((canonical(term) for term in terms(root)), key=str))
    if not root.arguments:
        return root
    node = Expression(root.name, tuple(canonical(a) if isinstance(a, Expression) else a for a in root.arguments))
    simpler = _simplify(node)
    while simpler is not node and simpler.arguments:
        node, simpler = simpler, _simplify(simpler)
    return simpler


def _sum(ordered: list[Expression]) -> Expression:
    total = ordered[0]
    for term in ordered[1:]:
        total = Expression("add", (total, term))
    return total


def digest(root: Expression) -> str:
    """Sixteen hexadecimal digits that name the canonical form."""
    return hashlib.sha256(str(canonical(root)).encode()).hexdigest()[:16]


assert all(name in CATALOGUE for name in _IDENTITIES | _IDEMPOTENT | _NON_NEGATIVE | _FLATTENING | _KL)
