"""Published distillers as trees, at weight 1 and averaged over the batch, in the conventions of the methods' public
reference implementations.

Not here, since they are no functions of two tensors: methods with networks of their own or memory banks (CRD, VID,
FT, DML).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.parsing import parse
from primitives import MAP_LOGITS, PairType

# How texts for pairs whose logits are maps are read.
DENSE_KNOWLEDGE = {"logits": MAP_LOGITS, "feat": PairType("map")}


@dataclass(frozen=True)
class ZooEntry:
    """A published method: its text, what it does in one line, and where it was published. ``dense``: for pairs
    whose logits are maps alone."""

    name: str
    text: str
    description: str
    reference: str
    dense: bool = False

    @property
    def expression(self) -> Expression:
        return parse(self.text, self.knowledge)

    @property
    def knowledge(self) -> dict[str, PairType] | None:
        """The types that its text is read with; None for the usual ones."""
        return DENSE_KNOWLEDGE if self.dense else None


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
             "Shu et al. 2021, arXiv:2011.13256 (CWD)", dense=True),
    ZooEntry("skd", "times(no(l2(places(norm_C(maxpool_2(feat))))), 1)", "similarities between places (pair-wise term)",
             "Liu et al. 2019, arXiv:1903.04197 (SKD), TorchDistiller's implementation", dense=True),
    ZooEntry("ifvd", "times(no(l2(centre_similarity(feat))), 1)", "similarities of places to their class centres",
             "Wang et al. 2020, IFVD (ECCV), over labelled places", dense=True),
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
