"""Published distillers as trees, at weight 1 and averaged over the batch, in the conventions of the methods' public
reference implementations.

Not here, since they are not functions of two tensors: methods with networks of their own or memory banks (CRD, VID,
FT, DML).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from kdzero_gp.compiler.checking import fits
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.parsing import parse
from kdzero_gp.errors import ExpressionError
from primitives import BOXES, GRID, MAP_LOGITS, MAPS, PROPOSALS, PairType

# The levels that detectors have in common: strides 8, 16 and 32.
LEVELS = (3, 4, 5)


def over_levels(*terms: str) -> str:
    """The sum of terms over the levels; ``*`` stands for a level.

    >>> over_levels("times(no(l2(fpn*)), 1)")[:48]
    'add(times(no(l2(fpn3)), 1), add(times(no(l2(fpn4'
    """
    every = [term.replace("*", str(level)) for term in terms for level in LEVELS]
    text = every.pop()
    while every:
        text = f"add({every.pop()}, {text})"
    return text


# What pairs of a kind usually expose, as texts are read where no pair is known; None stands for pairs of images.
USUAL: dict[tuple[str, ...], dict[str, PairType] | None] = {
    (): None,
    MAPS: {"logits": MAP_LOGITS, "feat": PairType("map"), "low": PairType("map")},
    BOXES: {
        "logits": PairType("anchors", "logits"),
        "deltas": PairType("anchors"),
        "boxes": PairType("boxes"),
        GRID: PairType("grid"),
        PROPOSALS: PairType("proposals"),
        "regions": PairType("tokens"),
        "region_logits": PairType("tokens", "logits"),
    }
    | {f"fpn{level}": PairType("map") for level in LEVELS},
}


def parse_for_some_pair(text: str) -> Expression:
    """Read a distiller where no pair is known: one of images, else one of label maps, else one of detectors. Raises
    ExpressionError as for images."""
    try:
        return parse(text)
    except ExpressionError:
        for types in (USUAL[MAPS], USUAL[BOXES]):
            with contextlib.suppress(ExpressionError):
                return parse(text, types)
        raise


def usual_types(expression: Expression) -> dict[str, PairType] | None:
    """The types of the first of these kinds of pairs that a distiller is for; None for images."""
    return next((types for types in USUAL.values() if fits(expression, types)), None)


@dataclass(frozen=True)
class ZooEntry:
    """A published method: its text, what it does in one line, and where it was published. ``dense``: for pairs
    of these kinds alone. Those for detectors take the levels at strides 8, 16 and 32. ``differs``: what is left out
    of the published method, or is otherwise."""

    name: str
    text: str
    description: str
    reference: str
    dense: tuple[str, ...] = ()
    differs: str = ""

    @cached_property
    def expression(self) -> Expression:
        """Its tree."""
        return parse(self.text, self.knowledge)

    @property
    def knowledge(self) -> dict[str, PairType] | None:
        """The types that its text is read with; None for the usual ones."""
        return USUAL[self.dense]


_ENTRIES = (
    ZooEntry("kd", "times(no(kl(softmax_C(logits, 4))), 1)", "softened class probabilities",
             "Hinton et al. 2015, arXiv:1503.02531"),
    ZooEntry("mse", "times(no(l2(logits)), 1)", "logits",
             "Ba & Caruana 2014, arXiv:1312.6184"),
    ZooEntry("fitnet", "times(no(l2(feat)), 1)", "feature maps",
             "Romero et al. 2015, arXiv:1412.6550"),
    ZooEntry("at", "times(no(l2(norm_HW(mean_C(pow2(feat))))), 1)", "spatial attention",
             "Zagoruyko & Komodakis 2017, arXiv:1612.03928"),
    ZooEntry("sp", "times(no(l2(norm_C(mm(feat)))), 1)", "similarities between samples",
             "Tung & Mori 2019, arXiv:1907.09682"),
    ZooEntry("cc", "times(no(consecutive(emb)), 1)", "correlation of the errors of neighbouring samples",
             "Peng et al. 2019, arXiv:1904.01802, as in RepDistiller"),
    ZooEntry("pkt", "times(no(kl_mean(proportion_C(scale(mm(norm_C(emb)))))), 1)", "similarities as probabilities",
             "Passalis & Tefas 2018, arXiv:1803.10837"),
    ZooEntry("nst", "times(no(mmd(norm_HW(feat))), 1)", "the distribution of channel patterns",
             "Huang & Wang 2017, arXiv:1707.01219"),
    ZooEntry("rkd", "add(times(no(smooth_l1(angles(emb))), 50), times(no(smooth_l1(pdist(emb))), 25))",
             "distances and angles between samples", "Park et al. 2019, arXiv:1904.05068"),
    ZooEntry("cwd", "times(no(kl(softmax_HW(feat, 4))), 1)", "each channel as a distribution over space",
             "Shu et al. 2021, arXiv:2011.13256"),
    ZooEntry("ickd", "times(no(l2_rows(norm_HW(bmm(feat)))), 1)", "correlations between channels",
             "Liu et al. 2021, ICKD (ICCV)"),
    ZooEntry("dist",
             "add(times(no(pear(softmax_C(logits, 4))), 1), times(no(pear(transpose(softmax_C(logits, 4)))), 1))",
             "relations between classes and between samples", "Huang et al. 2022, arXiv:2205.10536"),
    ZooEntry("dkd", "add(times(no(kl(nontarget(logits, 4))), 8), times(no(kl(target(logits, 4))), 1))",
             "target class and other classes apart", "Zhao et al. 2022, arXiv:2203.08679"),
    ZooEntry("itrd", "times(no(cor(emb)), 1)", "correlation of each feature (the correlation part alone)",
             "Miles et al. 2022, arXiv:2112.00459"),
    ZooEntry("wsld", "times(focal(soft_cross_entropy(softmax_C(logits, 4))), 1)", "soft labels, weighted by focus",
             "Zhou et al. 2021, arXiv:2102.00650"),
    # pixel-wise KD is kd, on logits that are a map
    ZooEntry("cwd_logits", "times(no(kl(softmax_HW(logits, 4))), 1)", "each class as a distribution over space",
             "Shu et al. 2021, arXiv:2011.13256 (CWD)", dense=MAPS),
    ZooEntry("skd", "times(no(l2(places(norm_C(maxpool_2(feat))))), 1)", "similarities between places (pair-wise term)",
             "Liu et al. 2019, arXiv:1903.04197 (SKD), TorchDistiller's implementation", dense=MAPS,
             differs="the pair-wise term alone, without pixels (kd) and the adversarial term"),
    ZooEntry("ifvd", "times(no(l2(centre_similarity(feat))), 1)", "similarities of places to their class centres",
             "Wang et al. 2020, IFVD (ECCV), over labelled places", dense=MAPS,
             differs="without pixels (kd) and the adversarial term"),
    ZooEntry("pkd", over_levels("times(no(l2(batchnorm(fpn*))), 1)"), "levels of the pyramid up to their scale",
             "Cao et al. 2022, arXiv:2207.02039 (PKD: Pearson correlation)", dense=BOXES),
    ZooEntry("cwd_fpn", over_levels("times(no(kl(softmax_HW(fpn*, 1))), 1)"),
             "each channel as a distribution over space",
             "Shu et al. 2021, arXiv:2011.13256 (CWD), on levels at temperature 1 as in MMRazor", dense=BOXES),
    ZooEntry("fgd", over_levels("times(no(weigh_sum(attended_l2_at(fpn*), attended_foreground(fpn*))), 1)",
                                "times(no(weigh_sum(attended_l2_at(fpn*), attended_background(fpn*))), 0.5)",
                                "times(no(l1_sum(satt(fpn*))), 1)", "times(no(l1_sum(catt(fpn*))), 1)"),
             "objects and background apart, where the teacher looks, and where that is (focal part)",
             "Yang et al. 2022, arXiv:2111.11837 (FGD), weights α : β : γ of 2 : 1 : 2", dense=BOXES,
             differs="without the global part, a learnt block; an object's area is the places that it touches; where "
                     "channels differ, the student's attention over space is read before its adapter"),
    ZooEntry("detkds", over_levels("times(no(l1(norm_N(catt(fpn*)))), 1)"), "which channels answer, over the batch",
             "DetKDS 2024: the winning term of whole levels, the same for five detectors", dense=BOXES,
             differs="the term of whole levels alone, without those of objects and background; the student's head is "
                     "its own and not the teacher's"),
    ZooEntry("crosskd", "add(times(no(by_positives(qfl_at(logits), every(logits))), 1), "
                        "times(no(by_positives(giou_at(boxes), rich(logits))), 1))",
             "scores and boxes of all anchors, in units of the positive ones",
             "Wang et al. 2024, arXiv:2306.11369 (CrossKD)", dense=BOXES,
             differs="on the student's own outputs, without the teacher's head on its features; anchors that are "
                     "neither positive nor negative count; RetinaNet's assignment for every detector"),
    ZooEntry("dkd_regions", "add(times(no(kl(target(region_logits, 1))), 1), "
                            "times(no(kl(nontarget(region_logits, 1))), 0.25))",
             "target class and other classes apart, at the student's proposals in two stages",
             "Zhao et al. 2022, arXiv:2203.08679 (DKD), its implementation for detectors (mdistiller)", dense=BOXES,
             differs="all proposals of an image, not a sample of them with the true boxes among them"),
)  # fmt: skip


class Zoo(Mapping[str, Expression]):
    """Published distillers by name: ``zoo["kd"]`` is an expression; ``zoo.entries`` tell where they come from."""

    def __init__(self, entries: tuple[ZooEntry, ...]):
        self.entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Expression:
        return self.entries[name].expression

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


zoo = Zoo(_ENTRIES)
