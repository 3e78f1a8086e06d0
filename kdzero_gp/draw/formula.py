"""A distiller as mathematics: LaTeX that matplotlib's mathtext renders too."""

from __future__ import annotations

from kdzero_gp.compiler.checking import KnowledgeTypes, type_of
from kdzero_gp.compiler.expression import Expression, terms
from primitives import SCALAR, PairType
from primitives.types import DISTRIBUTIONS

# More transforms than this in a row are written once, as a function φ of either side.
INLINE_TRANSFORMS = 3

_ARGUMENT = r"\left(<x>\right)"


def _function(name: str, axis: str = "") -> str:
    subscript = f"_{{{axis}}}" if axis else ""
    return rf"\mathrm{{{name}}}{subscript}{_ARGUMENT}"


# Every operation by its name. Of a transform: <x> is its argument, <b> the argument in brackets where it is
# no single symbol, <T> the division by its temperature. Of a distance: <t> and <s> are the teacher's and the
# student's side. Of a calibration: the weight of a sample.
FORMULAS = {
    # elementwise
    "exp": _function("exp"),
    "mish": _function("Mish"),
    "leaky_relu": _function("LeakyReLU"),
    "relu": _function("ReLU"),
    "tanh": _function("tanh"),
    "sigmoid": r"\sigma" + _ARGUMENT,
    "swish": _function("Swish"),
    "abs": r"\left|<x>\right|",
    "pow2": "<b>^{2}",
    "pow4": "<b>^{4}",
    "log": _function("log", r"\pm"),
    "sqrt": _function("sqrt", r"\pm"),
    "scale": r"\frac{<x>+1}{2}",
    "over": r"\frac{<x>}{<N>}",
    # normalisation
    "norm_HW": _function("unit", "HW"),
    "norm_C": _function("unit", "C"),
    "norm_N": _function("unit", "N"),
    "softmax_N": r"\mathrm{softmax}_{N}\left(<x><T>\right)",
    "softmax_C": r"\mathrm{softmax}_{C}\left(<x><T>\right)",
    "softmax_HW": r"\mathrm{softmax}_{HW}\left(<x><T>\right)",
    "logsoftmax_N": r"\log\,\mathrm{softmax}_{N}\left(<x><T>\right)",
    "logsoftmax_C": r"\log\,\mathrm{softmax}_{C}\left(<x><T>\right)",
    "logsoftmax_HW": r"\log\,\mathrm{softmax}_{HW}\left(<x><T>\right)",
    "proportion_C": _function("proportion", "C"),
    "min_max_normalize": _function("minmax"),
    "batchnorm": _function("batchnorm"),
    # relations
    "bmm": _function("Gram", "C"),
    "mm": _function("Gram", "N"),
    "pdist": _function("dist", "N"),
    "angles": _function("angle", "N"),
    "transpose": r"<b>^{\top}",
    "target": r"\log\,\mathrm{softmax}_{\{y,\bar{y}\}}\left(<x><T>\right)",
    "nontarget": r"\log\,\mathrm{softmax}_{C\setminus y}\left(<x><T>\right)",
    # space and channels
    "satt": _function("att", "HW"),
    "natt": _function("att", "N"),
    "catt": _function("att", "C"),
    "mask": r"\left(M_{HW}\odot <x>\right)",
    "drop": r"\left(M_{C}\odot <x>\right)",
    "mean_C": _function("mean", "C"),
    "mean_HW": _function("mean", "HW"),
    "scale_r1": "<x>",
    "scale_r2": _function("maxpool", r"2\times 2"),
    "scale_r4": _function("maxpool", r"4\times 4"),
    "pool_2": _function("avgpool", r"\to 2\times 2"),
    "pool_4": _function("avgpool", r"\to 4\times 4"),
    "local_s1": _function("vec"),
    "local_s2": _function("patch", r"2\times 2"),
    "local_s4": _function("patch", r"4\times 4"),
    "patch_2": _function("grid", r"2\times 2"),
    "patch_4": _function("grid", r"4\times 4"),
    "batch": _function("vec"),
    "channel": _function("vec", "HW"),
    # distances
    "l1": r"\frac{1}{d}\left\|<t>-<s>\right\|_{1}",
    "l2": r"\frac{1}{d}\left\|<t>-<s>\right\|_{2}^{2}",
    "l2_rows": r"\frac{1}{C}\left\|<t>-<s>\right\|_{2}^{2}",
    "smooth_l1": r"\mathrm{Huber}\left(<t>-<s>\right)",
    "cos": r"\left[1-\cos\left(<t>,\,<s>\right)\right]",
    "pear": r"\left[1-\rho\left(<t>,\,<s>\right)\right]",
    "kl": r"\mathrm{KL}\left(<t>\,\|\,<s>\right)",
    "kl_mean": r"\frac{1}{d}\,\mathrm{KL}\left(<t>\,\|\,<s>\right)",
    "soft_cross_entropy": r"\mathrm{CE}\left(<t>,\,<s>\right)",
    "hard": r"\mathrm{CE}\left(\mathrm{argmax}_{C}\,<t>,\,\mathrm{softmax}_{C}\,<s>\right)",
    "cor": r"\log_2 \sum_{j} \left|\rho_{j}\left(<t>,\,<s>\right)-1\right|^{2.02}",
    "consecutive": r"\left\langle\delta_{n},\,\delta_{n+1}\right\rangle_{\delta=\left|<t>-<s>\right|}",
    "mmd": r"\mathrm{MMD}^{2}\left(<t>,\,<s>\right)",
    # calibrations
    "no": "",
    "entropy": r"\frac{H(\mathrm{softmax}_{C}(z_T/4))}{\log\,C}",
    "focal": r"\left(1-e^{-\mathrm{CE}(z_S,y)/\mathrm{CE}(z_T,y)}\right)",
    "sim": r"\max(\cos(z_S,\,z_T),\,0)",
    "conf": r"\max_{C}\,\mathrm{softmax}_{C}(z_T)",
    # combinations
    "times": r"<N>\,<x>",
    "add": "<t>+<s>",
}


def to_latex(expression: Expression, knowledge: KnowledgeTypes | None = None) -> str:
    r"""A distiller as one line of LaTeX for math mode, in the part that matplotlib's mathtext knows too.

    z, e and F are logits, embedding and feature map; T and S mark the teacher's and the student's. Subscripts
    of operators name the axis: N the batch, C classes or channels, HW space. d counts the entries of a
    sample; 𝔼 is the mean over the batch, left out where samples have no weight. Long chains of transforms
    become functions φ, defined behind the loss.

    Raises ``ExpressionError`` for an ill-typed tree.

    >>> from kdzero_gp.compiler.zoo import zoo
    >>> print(to_latex(zoo["fitnet"]))
    \mathcal{L} = \frac{1}{d}\left\|F_T-F_S\right\|_{2}^{2}
    """
    loss, definitions = latex_parts(expression, knowledge)
    return r",\quad ".join([" + ".join(loss), *definitions])


def latex_parts(expression: Expression, knowledge: KnowledgeTypes | None = None) -> tuple[list[str], list[str]]:
    """The terms of the loss, the first with its left-hand side, and the definitions of the functions φ."""
    kind = type_of(expression, knowledge)
    writer = _Writer(knowledge)
    if isinstance(kind, PairType):
        return [rf"{writer.side(expression, 'T')},\ {writer.side(expression, 'S')}"], writer.definitions()
    parts = [writer.term(term) for term in terms(expression)]
    return [rf"\mathcal{{L}} = {parts[0]}", *parts[1:]], writer.definitions()


def knowledge_symbol(name: str, side: str) -> str:
    """The symbol of a knowledge leaf on one side, ``T`` or ``S``.

    >>> knowledge_symbol("feat2", "S")
    'F_{2,S}'
    """
    symbols = {"logits": "z", "emb": "e", "feat": "F"}
    if name in symbols:
        return f"{symbols[name]}_{side}"
    return f"F_{{{name.removeprefix('feat')},{side}}}"


class _Writer:
    """Writes terms and collects the functions φ that they share."""

    def __init__(self, knowledge: KnowledgeTypes | None):
        self.knowledge = knowledge
        self.functions: dict[str, int] = {}

    def definitions(self) -> list[str]:
        return [rf"\varphi_{{{number}}}(x) = {body}" for body, number in self.functions.items()]

    def term(self, term: Expression) -> str:
        """magnitude · 𝔼[weight · T² · distance], without what has no effect."""
        node, factor, weight = term, "", ""
        if node.name == "times":
            factor = f"{node.arguments[1]:g}" if node.arguments[1] != 1.0 else ""
            node = node.children[0]
        if type_of(node, self.knowledge) == SCALAR:
            weight = FORMULAS[node.name]
            node = node.children[0]
        temperature = last_temperature(node.children[0])
        squared = f"{temperature:g}^{{2}}" if temperature not in (None, 1.0) else ""
        factors = r" \cdot ".join(filter(None, [factor, squared]))
        distance = self.distance(node)
        body = rf"\mathbb{{E}}\left[{weight} \cdot {distance}\right]" if weight else distance
        return rf"{factors}\,{body}" if factors else body

    def distance(self, node: Expression) -> str:
        child = node.children[0]
        given = type_of(child, self.knowledge)
        assert isinstance(given, PairType)
        compares_distributions = node.name in ("kl", "kl_mean", "soft_cross_entropy")
        as_logarithm = compares_distributions and given.kind == DISTRIBUTIONS[1]
        sides = {f"<{side.lower()}>": self.side(child, side, as_logarithm) for side in ("T", "S")}
        text = FORMULAS[node.name]
        for mark, side in sides.items():
            text = text.replace(mark, side)
        return text

    def side(self, node: Expression, side: str, as_logarithm: bool = False) -> str:
        """One side of a pair; of log-probabilities that a divergence takes, the probabilities."""
        leaf = next(one for one in node.walk() if not one.arguments)
        symbol = knowledge_symbol(leaf.name, side)
        if node.depth == 0:
            return symbol
        chain = [one for one in node.walk() if one.arguments]
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
        text = FORMULAS[node.name].replace("<b>", below if not child.arguments else rf"\left({below}\right)")
        if constants:
            text = text.replace("<N>", f"{constants[0]:g}")
            text = text.replace("<T>", f"/{constants[0]:g}" if constants[0] != 1.0 else "")
        return text.replace("<x>", below)


def last_temperature(node: Expression) -> float | None:
    """The temperature nearest to the distance, whose square multiplies it; None where the chain has none."""
    for one in node.walk():
        for argument in one.arguments:
            if isinstance(argument, float):
                return argument
    return None


def _probabilities(text: str, as_logarithm: bool) -> str:
    if not as_logarithm:
        return text
    logarithm = r"\log\,"
    return text.removeprefix(logarithm) if text.startswith(logarithm) else rf"\exp\left({text}\right)"
