"""A distiller as one plain English sentence."""

from __future__ import annotations

import re

from kdzero_gp.compiler.checking import KnowledgeTypes, type_of
from kdzero_gp.compiler.expression import Expression, terms
from primitives import SCALAR, PairType

# Every operation in words, by its name. Of a transform: a noun phrase in which <x> stands for what it is
# applied to, <T> for its temperature (<N>: as a plain number), and <C> for what dimension 1 holds there
# (classes, features, channels, samples). Of a distance and a calibration: the adverbial that follows "matches
# the teacher's …".
WORDS = {
    # elementwise
    "exp": "exponential of <x>",
    "mish": "Mish of <x>",
    "leaky_relu": "leaky ReLU of <x>",
    "relu": "positive part of <x>",
    "tanh": "hyperbolic tangent of <x>",
    "sigmoid": "sigmoid of <x>",
    "swish": "Swish of <x>",
    "abs": "magnitude of <x>",
    "pow2": "square of <x>",
    "pow4": "fourth power of <x>",
    "log": "signed logarithm of <x>",
    "sqrt": "signed square root of <x>",
    "scale": "0-to-1 rescaled value of <x>",
    "over": "<N>-fold reduced value of <x>",
    # normalisation
    "norm_HW": "pattern over space of <x>",
    "norm_C": "direction over <C> of <x>",
    "norm_N": "pattern over the batch of <x>",
    "softmax_N": "<T>softmax over the batch of <x>",
    "softmax_C": "<T>softmax over <C> of <x>",
    "softmax_HW": "<T>softmax over space of <x>",
    "logsoftmax_N": "<T>log-softmax over the batch of <x>",
    "logsoftmax_C": "<T>log-softmax over <C> of <x>",
    "logsoftmax_HW": "<T>log-softmax over space of <x>",
    "proportion_C": "row-wise proportions of <x>",
    "min_max_normalize": "min-max normalised value of <x>",
    "batchnorm": "batch-normalised value of <x>",
    # relations
    "bmm": "channel-to-channel products of <x>",
    "mm": "sample-to-sample similarities of <x>",
    "pdist": "sample-to-sample distances of <x>",
    "angles": "angles between samples of <x>",
    "transpose": "batch profile, for each of the <C>, of <x>",
    "target": "<T>log-probabilities of the labelled class and of all others, from <x>",
    "nontarget": "<T>log-softmax over the classes other than the label of <x>",
    # space and channels
    "satt": "spatial attention of <x>",
    "natt": "batch attention of <x>",
    "catt": "channel attention of <x>",
    "mask": "randomly masked positions of <x>",
    "drop": "randomly dropped <C> of <x>",
    "mean_C": "mean over channels of <x>",
    "mean_HW": "mean over space of <x>",
    "scale_r1": "full-size copy of <x>",
    "scale_r2": "2×2 max-pooling of <x>",
    "scale_r4": "4×4 max-pooling of <x>",
    "pool_2": "average over each quarter of <x>",
    "pool_4": "average over a 4×4 grid of <x>",
    "local_s1": "single pixels of <x>",
    "local_s2": "2×2-pixel patches of <x>",
    "local_s4": "4×4-pixel patches of <x>",
    "patch_2": "four equal patches of <x>",
    "patch_4": "sixteen equal patches of <x>",
    "batch": "rows, one for each sample, of <x>",
    "channel": "channel rows of <x>",
    # distances
    "l1": "by mean absolute difference",
    "l2": "by mean squared difference",
    "l2_rows": "by squared difference summed over space",
    "smooth_l1": "by smooth absolute difference",
    "cos": "by cosine distance",
    "pear": "by Pearson correlation distance",
    "kl": "by KL divergence",
    "kl_mean": "by mean elementwise KL divergence",
    "soft_cross_entropy": "by cross-entropy",
    "hard": "by cross-entropy with the largest entry as the label",
    "cor": "by the correlation of each feature over the batch",
    "consecutive": "by products of the absolute differences of neighbouring samples",
    "mmd": "by maximum mean discrepancy between channels",
    # calibrations
    "no": "averaged over the batch",
    "entropy": "weighted by the teacher's uncertainty",
    "focal": "weighted towards samples on which the student is worse than the teacher",
    "sim": "weighted by how much the student's and the teacher's logits agree",
    "conf": "weighted by the teacher's confidence",
    # combinations
    "times": "with magnitude",
    "add": "plus",
}


def knowledge_words(name: str) -> str:
    """What a knowledge leaf is called in a sentence.

    >>> knowledge_words("feat2")
    'feature map 2'
    """
    number = name.removeprefix("feat")
    fixed = {"logits": "logits", "emb": "embedding", "feat": "last feature map"}
    return fixed.get(name, f"feature map {number}")


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
        tail.insert(0, f", {WORDS['times']} {node.arguments[1]:g}")
        node = node.children[0]
    if type_of(node, knowledge) == SCALAR:
        tail.insert(0, f", {WORDS[node.name]}")
        node = node.children[0]
    tail.insert(0, f" {WORDS[node.name]}")
    return f"the teacher's {_noun(node.children[0], knowledge)}{''.join(tail)}"


def _noun(node: Expression, knowledge: KnowledgeTypes | None) -> str:
    """A pair as a noun phrase without its article."""
    if not node.arguments:
        return knowledge_words(node.name)
    child = node.children[0]
    given = type_of(child, knowledge)
    assert isinstance(given, PairType)
    words = WORDS[node.name].replace("<C>", _axis_words(child, given))
    constants = [argument for argument in node.arguments if isinstance(argument, float)]
    if constants:
        words = words.replace("<N>", f"{constants[0]:g}")
        words = words.replace("<T>", f"temperature-{constants[0]:g} " if constants[0] != 1.0 else "")
    article = "" if re.fullmatch(r"feat\d+", child.name) else "the "
    return words.replace("<x>", article + _noun(child, knowledge))


def _axis_words(child: Expression, given: PairType) -> str:
    """What dimension 1 of a pair holds."""
    if given.rank == "matrix" and any(node.name == "logits" for node in child.walk()):
        return "classes"
    return {"matrix": "features", "relation": "samples"}.get(given.rank, "channels")
