"""A distiller as mathematics: LaTeX that matplotlib's mathtext renders too."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdzero_gp.compiler.checking import KnowledgeTypes, type_of
from kdzero_gp.compiler.expression import Expression, terms
from kdzero_gp.draw.factors import Factor, factors_of
from primitives import CATALOGUE, SCALAR, PairType

# More transforms than this in a row are written once, as a function φ of either side.
INLINE_TRANSFORMS = 3


def to_latex(expression: Expression, knowledge: KnowledgeTypes | None = None, numbers: Sequence[float] = ()) -> str:
    r"""A distiller as one line of LaTeX for math mode, in the part that matplotlib's mathtext knows too.

    z, e and F are logits, embedding and feature map; T and S mark the teacher's and the student's. Subscripts
    of operators name the axis: N the batch, C classes or channels, HW space. d counts the entries of a
    sample; 𝔼 is the mean over the batch, left out where samples have no weight. Long chains of transforms
    become functions φ, defined behind the loss. ``numbers`` are those of the exported file, one for each term, and
    take the place of the magnitudes in the expression.

    Raises ``ExpressionError`` for an ill-typed tree.

    >>> from kdzero_gp.compiler.zoo import zoo
    >>> print(to_latex(zoo["fitnet"]))
    \mathcal{L} = \frac{1}{d}\left\|F_T-F_S\right\|_{2}^{2}
    """
    loss, definitions = latex_parts(expression, knowledge, numbers)
    return r",\quad ".join([" + ".join(loss), *definitions])


def latex_parts(
    expression: Expression, knowledge: KnowledgeTypes | None = None, numbers: Sequence[float] = ()
) -> tuple[list[str], list[str]]:
    """The terms of the loss, the first with its left-hand side, and the definitions of the functions φ."""
    kind = type_of(expression, knowledge)
    writer = _Writer(knowledge)
    if isinstance(kind, PairType):
        return [rf"{writer.side(expression, 'T')},\ {writer.side(expression, 'S')}"], writer.definitions()
    factors = factors_of(expression, numbers)
    parts = [writer.term(term, factor) for term, factor in zip(terms(expression), factors, strict=True)]
    return [rf"\mathcal{{L}} = {parts[0]}", *parts[1:]], writer.definitions()


def knowledge_symbol(name: str, side: str) -> str:
    """The symbol of a knowledge leaf on one side, ``T`` or ``S``.

    >>> knowledge_symbol("feat2", "S")
    'F_{2,S}'
    """
    letters, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    symbol = {"logits": "z", "emb": "e", "feat": "F"}.get(letters, rf"\mathrm{{{letters.replace('_', '')}}}")
    return f"{symbol}_{{{number},{side}}}" if number else f"{symbol}_{side}"


class _Writer:
    """Writes terms and collects the functions φ that they share."""

    def __init__(self, knowledge: KnowledgeTypes | None):
        self.knowledge = knowledge
        self.functions: dict[str, int] = {}

    def definitions(self) -> list[str]:
        return [rf"\varphi_{{{number}}}(x) = {body}" for body, number in self.functions.items()]

    def term(self, term: Expression, size: Factor) -> str:
        """magnitude · 𝔼[weight · T² · distance], without what has no effect."""
        node, factor, weight = term, "", ""
        if node.name == "times":
            factor = size.latex if size.text != "1" else ""
            node = node.children[0]
        if type_of(node, self.knowledge) == SCALAR:
            weight = CATALOGUE[node.name].latex
            node = node.children[0]
        places = "<x>"
        if CATALOGUE[node.name].role == "weighing":
            places = CATALOGUE[node.name].latex.replace("<w>", CATALOGUE[node.children[1].name].latex)
            node = node.children[0]
        temperature = last_temperature(node.children[0])
        squared = f"{temperature:g}^{{2}}" if temperature not in (None, 1.0) else ""
        factors = r" \cdot ".join(filter(None, [factor, squared]))
        distance = places.replace("<x>", self.distance(node))
        body = rf"\mathbb{{E}}\left[{weight} \cdot {distance}\right]" if weight else distance
        return rf"{factors}\,{body}" if factors else body

    def distance(self, node: Expression) -> str:
        child = node.children[0]
        given = type_of(child, self.knowledge)
        assert isinstance(given, PairType)
        as_logarithm = CATALOGUE[node.name].compares_distributions and given.kind == "log_probability"
        sides = {f"<{side.lower()}>": self.side(child, side, as_logarithm) for side in ("T", "S")}
        text = CATALOGUE[node.name].latex
        for mark, side in sides.items():
            text = text.replace(mark, side)
        return text

    def side(self, node: Expression, side: str, as_logarithm: bool = False) -> str:
        """One side of a pair; of log-probabilities that a divergence takes, the probabilities."""
        leaf = next(below for below in node.walk() if not below.arguments)
        symbol = knowledge_symbol(leaf.name, side)
        if node.depth == 0:
            return symbol
        chain = [below for below in node.walk() if below.arguments]
        if len(chain) <= INLINE_TRANSFORMS:
            return _probabilities(self.chain(node, symbol), as_logarithm)
        body = _probabilities(self.chain(node, "x"), as_logarithm)
        number = self.functions.setdefault(body, len(self.functions) + 1)
        return rf"\varphi_{{{number}}}({symbol})"

    def chain(self, node: Expression, symbol: str) -> str:
        if not node.arguments:
            return symbol
        child = node.children[0]
        below = self.chain(child, symbol)
        constants = [argument for argument in node.arguments if isinstance(argument, float)]
        text = CATALOGUE[node.name].latex.replace("<b>", below if not child.arguments else rf"\left({below}\right)")
        if constants:
            text = text.replace("<N>", f"{constants[0]:g}")
            text = text.replace("<T>", f"/{constants[0]:g}" if constants[0] != 1.0 else "")
        return text.replace("<x>", below)


def last_temperature(node: Expression) -> float | None:
    """The temperature nearest to the distance, whose square multiplies it; None where the chain has none."""
    for below in node.walk():
        for argument in below.arguments:
            if isinstance(argument, float):
                return argument
    return None


def _probabilities(text: str, as_logarithm: bool) -> str:
    if not as_logarithm:
        return text
    logarithm = r"\log\,"
    return text.removeprefix(logarithm) if text.startswith(logarithm) else rf"\exp\left({text}\right)"
