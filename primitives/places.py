"""Operations for tasks that label every place: relations of places, centres of classes, and weights of places.

Labels N×H×W may be finer than a map; a place has the label at its centre. A negative label is none.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import BOXES, MAPS, OF_STUDENT, distance, operator, transform, weighing, weight
from primitives.distances import kl_terms, log_kl_terms, of_kind
from primitives.relations import at_places
from primitives.types import ANCHOR_WEIGHT, MAP_LOGITS, WEIGHT, PairType, pairs


# Below, 257 slots take sums of classes: label maps are 8-bit images; the last slot takes the places without a label.
# (A constant of the module would not travel with the functions into an exported file.)
def class_means(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each class in its image, N×257×C, 0 if absent; and the slot of each place, N×(H·W)."""
    at = at_places(labels, x)
    slots = torch.where(at >= 0, at.clamp(max=255), 256).flatten(1)
    rows = x.flatten(2).transpose(1, 2)
    sums = x.new_zeros(len(x), 257, x.shape[1]).scatter_add(1, slots[:, :, None].expand_as(rows), rows)
    counts = x.new_zeros(len(x), 257).scatter_add(1, slots, torch.ones_like(slots, dtype=x.dtype))
    return sums / counts.clamp(min=1)[:, :, None], slots


def centres(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each place the mean of its class in its image, N×C×H×W, or 0; and which have a label, N×1×H×W."""
    means, slots = class_means(x, labels)
    labelled = (slots < 256).view(len(x), 1, *x.shape[2:]).to(x.dtype)
    at = means.gather(1, slots[:, :, None].expand(-1, -1, x.shape[1]))
    return at.transpose(1, 2).reshape(x.shape) * labelled, labelled


_MAPS = pairs("map", kinds=("real", "logits"))


@transform(
    {given: PairType("map") for given in _MAPS},
    dense=MAPS + BOXES,
    latex=operator("maxpool", r"\to 2\times 2"),
    words="maximum over each quarter of <x>",
    source="Liu et al. 2019, arXiv:1903.04197 (SKD, pair-wise: nodes of half the map)",
)
def maxpool_2(x: Tensor) -> Tensor:
    """Maximum over each of 2×2 equal parts.

    N×C×H×W to N×C×2×2 for any H, W.
    """
    return F.adaptive_max_pool2d(x, 2)


@transform(
    {given: PairType("tokens") for given in _MAPS},
    dense=MAPS + BOXES,
    latex=operator("Gram", "HW"),
    words="place-to-place products of <x>",
    source="Liu et al. 2019, arXiv:1903.04197 (SKD, pair-wise); the bound on the places is ours",
)
def places(x: Tensor) -> Tensor:
    """Xᵀ X for each sample, X with a column for each place, of at most 32×32 by means.

    N×C×H×W to N×P×P with P = min(H, 32) · min(W, 32): memory does not grow with the fourth power of the side.
    """
    columns = F.adaptive_avg_pool2d(x, (min(x.shape[2], 32), min(x.shape[3], 32))).flatten(2)
    return torch.bmm(columns.transpose(1, 2), columns)


@transform(
    {given: PairType("map") for given in _MAPS},
    dense=MAPS,
    needs=("labels",),
    latex=operator("centre", "y"),
    words="class centres of <x>",
    source="Wang et al. 2020, ECCV (IFVD, prototypes)",
)
def class_centres(x: Tensor, labels: Tensor) -> Tensor:
    """Each place's x becomes the mean of its class in its image, 0 without a label.

    N×C×H×W and label maps to N×C×H×W.
    """
    return centres(x, labels)[0]


@transform(
    {given: PairType("tokens") for given in _MAPS},
    dense=MAPS,
    needs=("labels",),
    latex=operator("prototypes", "y"),
    words="class prototypes of <x>",
    source="Wang et al. 2020, ECCV (IFVD, prototypes): every class alike, whatever its area",
)
def prototypes(x: Tensor, labels: Tensor) -> Tensor:
    """The mean of x over each class in its image: a column for each of 256 classes, 0 for absent ones.

    N×C×H×W and label maps to N×C×256.
    """
    return class_means(x, labels)[0][:, :256].transpose(1, 2)


@transform(
    {given: PairType("plane") for given in _MAPS},
    dense=MAPS,
    needs=("labels",),
    latex=operator("cos", "y"),
    words="similarities to the class centres of <x>",
    source="Wang et al. 2020, ECCV (IFVD, intra-class feature variation)",
)
def centre_similarity(x: Tensor, labels: Tensor) -> Tensor:
    """cos(x, mean of x over the label's class in its image) at each place, 0 without a label.

    N×C×H×W and label maps to N×1×H×W.
    """
    means, labelled = centres(x, labels)
    return F.cosine_similarity(x, means, dim=1, eps=1e-8)[:, None] * labelled


# --- distances that keep places -----------------------------------------------------------------------------

_DISTRIBUTIONS = [PairType("map", kind, "C") for kind in ("probability", "log_probability")]


@distance(
    pairs("map"),
    by_place=True,
    dense=MAPS + BOXES,
    latex=r"\frac{1}{C}\left\|<t>-<s>\right\|_{2}^{2}",
    words="by mean squared difference at each place",
    source="Romero et al. 2015, arXiv:1412.6550, without the mean over space",
)
def l2_at(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (s − t)² over channels.

    Student and teacher N×C×H×W → losses N×H×W.
    """
    return (student - teacher).square().mean(dim=1)


@distance(
    pairs("map"),
    by_place=True,
    dense=MAPS + BOXES,
    latex=r"\left[1-\cos\left(<t>,\,<s>\right)\right]",
    words="by cosine distance at each place",
    source="KD-Zero (NeurIPS 2023), supplement, section E.2, without the mean over space",
)
def cos_at(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − ⟨s, t⟩ / (‖s‖ ‖t‖ + 10⁻⁸) over channels.

    Student and teacher N×C×H×W → losses N×H×W.
    """
    return 1.0 - (student * teacher).sum(dim=1) / (student.norm(dim=1) * teacher.norm(dim=1) + 1e-8)


def sum_at_places(terms: Tensor) -> Tensor:
    """Sum over channels: N×C×H×W to N×H×W."""
    return terms.sum(dim=1)


_kl = of_kind(kl_terms, log_kl_terms, sum_at_places)


@distance(
    _DISTRIBUTIONS,
    by_place=True,
    dense=MAPS + BOXES,
    latex=r"\mathrm{KL}\left(<t>\,\|\,<s>\right)",
    words="by KL divergence at each place",
    specialise=_kl,
    source="Liu et al. 2019, arXiv:1903.04197 (SKD, pixel-wise)",
)
def kl_at(student: Tensor, teacher: Tensor, given: PairType) -> Tensor:
    """Σ t (log t − log s) over channels.

    Two distributions over C of the type ``given``, N×C×H×W, to N×H×W.
    """
    terms, reduce = _kl(given)
    return reduce(terms(student, teacher))


# --- weights ------------------------------------------------------------------------------------------------


def labelled_only(value: Tensor, labels: Tensor) -> Tensor:
    """A value of each place where it has a label, 0 elsewhere."""
    return value.masked_fill(labels < 0, 0.0)


def band(x: Tensor, labels: Tensor, width: int) -> Tensor:
    """1 where another class lies within ``width`` places in any direction, N×H×W."""
    at = at_places(labels, x)
    number = at.to(x.dtype)[:, None]
    size = 2 * width + 1
    highest = F.max_pool2d(number.masked_fill(number < 0, -1.0), size, 1, width)
    lowest = -F.max_pool2d((-number).masked_fill(number < 0, -257.0), size, 1, width)
    return labelled_only((highest != lowest)[:, 0].to(x.dtype), at)


@weight(
    latex=r"b_{1}",
    words="next to another class",
    source="boundary distillation, Wang et al. 2022, ECCV (BPKD); the width is ours",
)
def boundary_1(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 where a label of another class is at most 1 place away, else 0.

    Logits N×K×H×W (for their size) and label maps to N×H×W; 0 without a label.
    """
    return band(teacher, labels, 1)


@weight(
    latex=r"b_{3}",
    words="near another class",
    source="boundary distillation, Wang et al. 2022, ECCV (BPKD); the width is ours",
)
def boundary_3(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 where a label of another class is at most 3 places away, else 0.

    Logits N×K×H×W (for their size) and label maps to N×H×W; 0 without a label.
    """
    return band(teacher, labels, 3)


@weight(
    latex=r"\frac{1}{n_y}",
    words="with all classes of an image alike",
    source="median frequency balancing, Eigen & Fergus 2015, arXiv:1411.4734, for each image",
)
def balanced(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 / the number of places with the same label in the image.

    Logits N×K×H×W (for their size) and label maps to N×H×W; 0 without a label.
    """
    at = at_places(labels, teacher)
    slots = torch.where(at >= 0, at.clamp(max=255), 256).flatten(1)
    ones = torch.ones_like(slots, dtype=teacher.dtype)
    counts = teacher.new_zeros(len(slots), 257).scatter_add(1, slots, ones)
    return labelled_only((1.0 / counts.gather(1, slots)).view(at.shape), at)


@weight(
    latex=r"\max_{C}\,p_T",
    words="where the teacher is sure",
    source="KD-Zero (NeurIPS 2023), supplement, section E.3, at each place",
)
def sure(teacher: Tensor, labels: Tensor) -> Tensor:
    """max softmax(teacher).

    Logits N×K×H×W and label maps to N×H×W in [0, 1]; 0 without a label.
    """
    return labelled_only(torch.softmax(teacher, dim=1).amax(dim=1), at_places(labels, teacher))


@weight(
    latex=r"\frac{H(p_T)}{\log\,C}",
    words="where the teacher is unsure",
    source="KD-Zero (NeurIPS 2023), supplement, section E.3, at each place",
)
def unsure(teacher: Tensor, labels: Tensor) -> Tensor:
    """H(p) / log K, p = softmax(teacher).

    Logits N×K×H×W and label maps to N×H×W in [0, 1]; 0 without a label.
    """
    log_probability = torch.log_softmax(teacher, dim=1)
    spread = -(log_probability.exp() * log_probability).sum(dim=1) / math.log(max(teacher.shape[1], 2))
    return labelled_only(spread, at_places(labels, teacher))


@weight(
    latex=r"p_T(y)",
    words="where the teacher agrees with the label",
    source="Zhou et al. 2021, arXiv:2102.00650 (WSLD), the teacher's side at each place",
)
def right(teacher: Tensor, labels: Tensor) -> Tensor:
    """softmax(teacher) at the label.

    Logits N×K×H×W and label maps to N×H×W in [0, 1]; 0 without a label.
    """
    at = at_places(labels, teacher)
    return labelled_only(torch.softmax(teacher, dim=1).gather(1, at.clamp(min=0)[:, None])[:, 0], at)


@weight(
    {MAP_LOGITS: WEIGHT, PairType("anchors", "logits"): ANCHOR_WEIGHT},
    dense=MAPS + BOXES,
    needs=(OF_STUDENT, "labels"),
    agree=("*",),
    latex=r"\max_{C}\left|p_{T}-p_{S}\right|",
    words="where the two disagree",
    source="Dai et al. 2021, arXiv:2103.02340 (general instances, difference of the scores)",
)
def gap(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """max over classes of |p(t) − p(s)|, p the sigmoid at anchors and the softmax on maps; no gradient.

    Logits N×K×M of both to N×M; N×K×H×W and label maps to N×H×W, 0 without a label.
    """
    sides = [side.detach() for side in (teacher, student)]
    if teacher.dim() == 3:
        return (torch.sigmoid(sides[0]) - torch.sigmoid(sides[1])).abs().amax(dim=1)
    off = (torch.softmax(sides[0], dim=1) - torch.softmax(sides[1], dim=1)).abs().amax(dim=1)
    return labelled_only(off, at_places(labels, teacher))


@weighing(latex=r"\left\langle <x>\right\rangle_{<w>}", words="weighted", source="a weighted mean; FGD, CVPR 2022")
def weigh(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ w · loss / Σ w over places or anchors; 0 where all weights are.

    Losses N×H×W and weights N×h×w, brought to that size by means, or both N×M, to N.
    """
    weights = at_size_of(losses, weights)
    total = weights.sum(dim=1)
    return (weights * losses.flatten(1)).sum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))


def at_size_of(losses: Tensor, weights: Tensor) -> Tensor:
    """Weights N×h×w brought to N×(H·W) by means, or as they are, N×M."""
    if weights.shape[1:] != losses.shape[1:]:
        weights = F.adaptive_avg_pool2d(weights[:, None], (losses.shape[1], losses.shape[2]))[:, 0]
    return weights.to(losses.dtype).flatten(1)


@weighing(
    latex=r"\sum <w>\,<x>",
    words="summed",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD): weights of 1/area make each object count once",
)
def weigh_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ w · loss over places or anchors.

    Losses N×H×W and weights N×h×w, brought to that size by means that keep their sum, or both N×M, to N.
    """
    share = weights[0].numel() / losses[0].numel()
    return (at_size_of(losses, weights) * losses.flatten(1)).sum(dim=1) * share
