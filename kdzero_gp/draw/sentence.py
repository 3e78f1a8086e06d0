"""A distiller as one plain English sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdzero_gp.compiler.checking import KnowledgeTypes, type_of
from kdzero_gp.compiler.expression import Expression, terms
from kdzero_gp.draw.factors import Factor, factors_of
from primitives import CATALOGUE, SCALAR, PairType

_NUMBERED = {"feat": "feature map", "fpn": "pyramid level"}


def knowledge_words(name: str) -> str:
    """What a knowledge leaf is called in a sentence.

    >>> knowledge_words("feat2")
    'feature map 2'
    """
    letters, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    if not number:
        return {"emb": "embedding", "feat": "last feature map"}.get(name, name.replace("_", " "))
    return f"{_NUMBERED.get(letters, letters)} {number}"


def describe(expression: Expression, knowledge: KnowledgeTypes | None = None, numbers: Sequence[float] = ()) -> str:
    """One English sentence that says what a distiller does. Of a part of one, a phrase.

    ``numbers`` are those of its exported file, one for each term; where they differ from the magnitudes in the
    expression these are relative ones, and both are told. Raises ``ExpressionError`` for an ill-typed tree.

    >>> from kdzero_gp.compiler.parsing import parse
    >>> describe(parse("times(no(kl(softmax_C(logits, 4))), 1)"))[:74]
    "Matches the teacher's temperature-4 softmax over classes of the logits by "
    """
    kind = type_of(expression, knowledge)
    if isinstance(kind, PairType):
        return f"The {_noun(expression, knowledge)}."
    return f"Matches {'; plus '.join(clauses(expression, knowledge, numbers))}."


def bullets(expression: Expression, knowledge: KnowledgeTypes | None = None, numbers: Sequence[float] = ()) -> str:
    """What ``describe`` says, with a line for each term where there are several.

    >>> from kdzero_gp.compiler.parsing import parse
    >>> print(bullets(parse("add(times(no(l2(emb)), 5), times(no(l1(emb)), 1))"), numbers=(0.25, 1.0)))
    Matches
      • the teacher's embedding by mean squared difference, averaged over the batch, with magnitude 0.25, relative 5
      • the teacher's embedding by mean absolute difference, averaged over the batch, with magnitude 1
    """
    if isinstance(type_of(expression, knowledge), PairType) or len(terms(expression)) == 1:
        return describe(expression, knowledge, numbers)
    return "\n  • ".join(["Matches", *clauses(expression, knowledge, numbers)])


def clauses(
    expression: Expression, knowledge: KnowledgeTypes | None = None, numbers: Sequence[float] = ()
) -> list[str]:
    """The phrases of ``describe``, one for each term."""
    factors = factors_of(expression, numbers)
    return [_clause(term, knowledge, factor) for term, factor in zip(terms(expression), factors, strict=True)]


def _clause(term: Expression, knowledge: KnowledgeTypes | None, factor: Factor) -> str:
    """One term as "the teacher's X by D, weighted W, with magnitude γ", as far as the term goes."""
    tail: list[str] = []
    node = term
    if node.name == "times":
        relative = f", relative {factor.relative:g}" if factor.relative is not None else ""
        tail.insert(0, f", {CATALOGUE['times'].words} {factor.text}{relative}")
        node = node.children[0]
    if type_of(node, knowledge) == SCALAR:
        tail.insert(0, f", {CATALOGUE[node.name].words}")
        node = node.children[0]
    if CATALOGUE[node.name].role == "weighing":
        tail.insert(0, f", {CATALOGUE[node.name].words} {CATALOGUE[node.children[1].name].words}")
        node = node.children[0]
    tail.insert(0, f" {CATALOGUE[node.name].words}")
    return f"the teacher's {_noun(node.children[0], knowledge)}{''.join(tail)}"


def _noun(node: Expression, knowledge: KnowledgeTypes | None) -> str:
    """A pair as a noun phrase without its article."""
    if not node.arguments:
        return knowledge_words(node.name)
    child = node.children[0]
    given = type_of(child, knowledge)
    assert isinstance(given, PairType)
    words = CATALOGUE[node.name].words.replace("<C>", _axis_words(child, given, knowledge))
    constants = [argument for argument in node.arguments if isinstance(argument, float)]
    if constants:
        words = words.replace("<N>", f"{constants[0]:g}")
        words = words.replace("<T>", f"temperature-{constants[0]:g} " if constants[0] != 1.0 else "")
    article = "" if not child.arguments and child.name[-1].isdigit() else "the "
    return words.replace("<x>", article + _noun(child, knowledge))


def _axis_words(child: Expression, given: PairType, knowledge: KnowledgeTypes | None) -> str:
    """What dimension 1 of a pair holds."""
    leaf = type_of(next(node for node in child.walk() if not node.arguments), knowledge)
    assert isinstance(leaf, PairType)
    if leaf.kind == "logits" and given.rank in ("matrix", leaf.rank):
        return "classes"
    return {"matrix": "features", "relation": "samples"}.get(given.rank, "channels")
