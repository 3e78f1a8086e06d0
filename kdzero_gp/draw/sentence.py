"""A distiller as one plain English sentence."""

from __future__ import annotations

import re

from kdzero_gp.compiler.checking import KnowledgeTypes, type_of
from kdzero_gp.compiler.expression import Expression, terms
from primitives import CATALOGUE, SCALAR, PairType

_NUMBERED = {"feat": "feature map", "fpn": "pyramid level"}


def knowledge_words(name: str) -> str:
    """What a knowledge leaf is called in a sentence.

    >>> knowledge_words("feat2")
    'feature map 2'
    """
    letters, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    if not number:
        return {"emb": "embedding", "feat": "last feature map"}.get(name, name)
    return f"{_NUMBERED.get(letters, letters)} {number}"


def describe(expression: Expression, knowledge: KnowledgeTypes | None = None) -> str:
    """One English sentence that says what a distiller does. Of a part of one, a phrase.

    Raises ``ExpressionError`` for an ill-typed tree.

    >>> from kdzero_gp.compiler.parsing import parse
    >>> describe(parse("times(no(kl(softmax_C(logits, 4))), 1)"))[:74]
    "Matches the teacher's temperature-4 softmax over classes of the logits by "
    """
    kind = type_of(expression, knowledge)
    if isinstance(kind, PairType):
        return f"The {_noun(expression, knowledge)}."
    parts = [_clause(term, knowledge) for term in terms(expression)]
    return f"Matches {'; plus '.join(parts)}."


def _clause(term: Expression, knowledge: KnowledgeTypes | None) -> str:
    """One term as "the teacher's X by D, weighted W, with magnitude γ", as far as the term goes."""
    tail: list[str] = []
    node = term
    if node.name == "times":
        tail.insert(0, f", {CATALOGUE['times'].words} {node.arguments[1]:g}")
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
