"""Operations for detectors: distances of anchors, and weights of places and anchors from boxes and the teacher.

Boxes N×G×5 are left, top, right and bottom as shares of the image, and the class; a row with a negative class is none.
A map covers the whole image, so its places are as many equal parts of it. A grid N×4×M has the anchors as boxes;
points are squares of 8 strides there, the anchors that ATSS (Zhang et al. 2020, arXiv:1912.02424) has in their place.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import BOXES, POSITIVES, distance, weighing, weight
from primitives.types import ANCHOR_WEIGHT, LEVEL, WEIGHT, PairType, pairs

_SCORES = PairType("anchors", "logits")
_DELTAS = PairType("anchors")
_BOXES = PairType("boxes")
_GRID = PairType("grid")

# --- distances of anchors -----------------------------------------------------------------------------------


@distance(
    [_SCORES],
    by_anchor=True,
    dense=BOXES,
    latex=r"\mathrm{BCE}\left(\sigma(<t>),\,\sigma(<s>)\right)",
    words="by binary cross-entropy at each anchor",
    source="Wang et al. 2024, arXiv:2306.11369 (CrossKD), with β = 0",
)
def bce_at(student: Tensor, teacher: Tensor) -> Tensor:
    """−Σ over classes of σ(t) log σ(s) + (1 − σ(t)) log(1 − σ(s)).

    Student and teacher logits N×K×M → losses N×M.
    """
    terms = F.binary_cross_entropy_with_logits(student, torch.sigmoid(teacher), reduction="none")
    return terms.sum(dim=1)


@distance(
    [_SCORES],
    by_anchor=True,
    dense=BOXES,
    latex=r"\left|\sigma(<t>)-\sigma(<s>)\right|\mathrm{BCE}\left(\sigma(<t>),\,\sigma(<s>)\right)",
    words="by quality focal loss at each anchor",
    source="Wang et al. 2024, arXiv:2306.11369 (CrossKD, quality focal loss with β = 1)",
)
def qfl_at(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ over classes of |σ(t) − σ(s)| · BCE(σ(t), σ(s)).

    Student and teacher logits N×K×M → losses N×M.
    """
    wanted = torch.sigmoid(teacher)
    terms = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    return ((wanted - torch.sigmoid(student)).abs() * terms).sum(dim=1)


@distance(
    [_SCORES, _DELTAS],
    by_anchor=True,
    dense=BOXES,
    latex=r"\left\|<t>-<s>\right\|_{1}",
    words="by absolute difference at each anchor",
    source="Chen et al. 2017, NeurIPS (distilled detectors, regression as a hint), with absolute differences",
)
def l1_at(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ |s − t| over dimension 1.

    Student and teacher N×C×M → losses N×M.
    """
    return (student - teacher).abs().sum(dim=1)


@distance(
    [_BOXES],
    by_anchor=True,
    dense=BOXES,
    latex=r"\left[1-\mathrm{GIoU}\left(<t>,\,<s>\right)\right]",
    words="by generalised overlap at each anchor",
    source="Rezatofighi et al. 2019, arXiv:1902.09630; of boxes of two networks: CrossKD, arXiv:2306.11369",
)
def giou_at(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − |s ∩ t| / |s ∪ t| + (|c| − |s ∪ t|) / |c|, c the smallest box around both.

    Student and teacher boxes N×4×M → losses N×M in [0, 2]; areas are at least 10⁻¹².
    """
    inner = torch.minimum(student[:, 2:], teacher[:, 2:]) - torch.maximum(student[:, :2], teacher[:, :2])
    outer = torch.maximum(student[:, 2:], teacher[:, 2:]) - torch.minimum(student[:, :2], teacher[:, :2])
    both, around = inner.clamp(min=0).prod(dim=1), outer.prod(dim=1).clamp(min=1e-12)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (student, teacher)]
    either = (areas[0] + areas[1] - both).clamp(min=1e-12)
    return 1.0 - both / either + (around - either) / around


@distance(
    pairs("map", kinds=("real",)),
    by_place=True,
    dense=BOXES,
    latex=r"\left\|\sqrt{c_{T}}\left(<t>-<s>\right)\right\|_{2}^{2}",
    words="by squared difference under the teacher's channel attention at each place",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD, channel attention at temperature 0.5)",
)
def attended_l2_at(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ over channels of c · (s − t)², c = C · softmax(mean |t| over space / 0.5).

    Student and teacher N×C×H×W → losses N×H×W.
    """
    attention = teacher.shape[1] * torch.softmax(teacher.abs().mean(dim=(2, 3)) / 0.5, dim=1)
    return (attention[:, :, None, None] * (student - teacher).square()).sum(dim=1)


@distance(
    [PairType("matrix"), PairType("plane")],
    dense=BOXES,
    latex=r"\left\|<t>-<s>\right\|_{1}",
    words="by absolute difference, summed",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD, attention loss)",
)
def l1_sum(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ |s − t| over all numbers of a sample.

    Student and teacher N×C or N×1×H×W → N losses.
    """
    return (student - teacher).abs().flatten(1).sum(dim=1)


# --- weights of places --------------------------------------------------------------------------------------


def touched(x: Tensor, boxes: Tensor) -> Tensor:
    """Which places of a map each box touches, N×G×H×W; every box touches some."""
    height, width = x.shape[2:]
    left, top, right, bottom = (boxes[:, :, side, None] for side in range(4))
    row, column = (torch.arange(size, device=x.device, dtype=boxes.dtype) for size in (height, width))
    # what begins at the lower or right edge belongs to the last place
    left, top = (left * width).clamp(max=width - 0.5), (top * height).clamp(max=height - 0.5)
    rows = (row + 1 > top) & (row < torch.maximum(bottom * height, top + 1e-3))
    columns = (column + 1 > left) & (column < torch.maximum(right * width, left + 1e-3))
    return rows[:, :, :, None] & columns[:, :, None, :]


def of_objects(x: Tensor, boxes: Tensor) -> Tensor:
    """For each place the largest 1 / number of places of an object that touches it, N×H×W, 0 for none."""
    at = touched(x, boxes) & (boxes[:, :, 4] >= 0)[:, :, None, None]
    share = at / at.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return share.amax(dim=1).to(x.dtype)


def of_nothing(x: Tensor, boxes: Tensor) -> Tensor:
    """1 / number of the places that no object or crowd touches there, N×H×W, 0 elsewhere."""
    some = touched(x, boxes) & (boxes[:, :, 4] != -1)[:, :, None, None]
    free = ~some.any(dim=1)
    return free.to(x.dtype) / free.sum(dim=(1, 2), keepdim=True).clamp(min=1)


def looked_at(x: Tensor) -> Tensor:
    """H·W · softmax(mean |x| over channels / 0.5) over space, N×H×W."""
    count, _, height, width = x.shape
    attention = torch.softmax(x.abs().mean(dim=1).flatten(1) / 0.5, dim=1)
    return (height * width * attention).view(count, height, width)


@weight(
    {LEVEL: WEIGHT},
    dense=BOXES,
    latex=r"\frac{1}{n_{o}}",
    words="with all objects of an image alike",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD, foreground scale mask)",
)
def foreground(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 / the number of places of the smallest object that touches a place, 0 outside of objects.

    A map N×C×H×W (for its size) and boxes N×G×5 to N×H×W.
    """
    return of_objects(teacher, labels)


@weight(
    {LEVEL: WEIGHT},
    dense=BOXES,
    latex=r"\frac{1}{n_{b}}",
    words="outside of objects",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD, background)",
)
def background(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 / the number of places that no object or crowd touches, there; 0 elsewhere.

    A map N×C×H×W (for its size) and boxes N×G×5 to N×H×W.
    """
    return of_nothing(teacher, labels)


@weight(
    {LEVEL: WEIGHT},
    dense=BOXES,
    latex=r"i_{o}",
    words="inside of objects",
    source="Wang et al. 2019, arXiv:1906.03609 (fine-grained imitation), with whole objects",
)
def inside(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 where an object touches a place, else 0: large objects count more.

    A map N×C×H×W (for its size) and boxes N×G×5 to N×H×W.
    """
    return (of_objects(teacher, labels) > 0).to(teacher.dtype)


@weight(
    {LEVEL: WEIGHT},
    dense=BOXES,
    latex=r"e^{-\frac{d^{2}}{2}}",
    words="near the centres of objects",
    source="Zhou et al. 2019, arXiv:1904.07850 (CenterNet's Gaussians, here a sixth of each side wide)",
)
def centre(teacher: Tensor, labels: Tensor) -> Tensor:
    """max over objects of exp(−(Δx² / σx² + Δy² / σy²) / 2), σ a sixth of the side and at least half a place.

    A map N×C×H×W (for its size) and boxes N×G×5 to N×H×W.
    """
    height, width = teacher.shape[2:]
    left, top, right, bottom = (labels[:, :, side, None] for side in range(4))
    row = torch.arange(height, device=labels.device, dtype=labels.dtype) + 0.5
    column = torch.arange(width, device=labels.device, dtype=labels.dtype) + 0.5
    down = (row - height * (top + bottom) / 2) / (height * (bottom - top) / 6).clamp(min=0.5)
    across = (column - width * (left + right) / 2) / (width * (right - left) / 6).clamp(min=0.5)
    bell = torch.exp(-(down.square()[:, :, :, None] + across.square()[:, :, None, :]) / 2)
    return (bell * (labels[:, :, 4] >= 0)[:, :, None, None]).amax(dim=1).to(teacher.dtype)


@weight(
    {LEVEL: WEIGHT},
    dense=BOXES,
    latex=r"a_{T}",
    words="where the teacher looks",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD, spatial attention at temperature 0.5)",
)
def attention(teacher: Tensor, labels: Tensor) -> Tensor:
    """H·W · softmax(mean |t| over channels / 0.5) over space.

    A map N×C×H×W to N×H×W with mean 1; boxes have no part in it.
    """
    return looked_at(teacher)


@weight(
    {LEVEL: WEIGHT},
    dense=BOXES,
    latex=r"\frac{a_{T}}{n_{o}}",
    words="where the teacher looks at objects, all of them alike",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD, focal part on objects)",
)
def attended_foreground(teacher: Tensor, labels: Tensor) -> Tensor:
    """``foreground`` times ``attention``.

    A map N×C×H×W and boxes N×G×5 to N×H×W.
    """
    return of_objects(teacher, labels) * looked_at(teacher)


@weight(
    {LEVEL: WEIGHT},
    dense=BOXES,
    latex=r"\frac{a_{T}}{n_{b}}",
    words="where the teacher looks outside of objects",
    source="Yang et al. 2022, arXiv:2111.11837 (FGD, focal part on the background)",
)
def attended_background(teacher: Tensor, labels: Tensor) -> Tensor:
    """``background`` times ``attention``.

    A map N×C×H×W and boxes N×G×5 to N×H×W.
    """
    return of_nothing(teacher, labels) * looked_at(teacher)


# --- weights of anchors -------------------------------------------------------------------------------------


def areas_with(given: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of boxes N×4×M and N×G×5: the areas N×G×M that each pair shares, and those of both, N×1×M and N×G×1."""
    given, truth = given[:, :, None], labels[:, :, :4].transpose(1, 2)[:, :, :, None]
    both = torch.minimum(given[:, 2:], truth[:, 2:]) - torch.maximum(given[:, :2], truth[:, :2])
    one, other = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (given, truth))
    return both.clamp(min=0).prod(dim=1), one, other


def overlaps_of_objects(given: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of boxes N×4×M with those of objects N×G×5, N×G×M; 0 with what is none."""
    both, one, other = areas_with(given, labels)
    return both / (one + other - both).clamp(min=1e-12) * (labels[:, :, 4] >= 0)[:, :, None]


def region_classes(proposals: Tensor, labels: Tensor) -> Tensor:
    """For each proposal 1 + the class of the object that it overlaps most, by half or more, or 0 for the background.

    Proposals N×4×P and boxes N×G×5 to N×P; −1, no label, where there is no proposal, or half of it is in a crowd.
    """
    overlap, matched = overlaps_of_objects(proposals, labels).max(dim=1)
    both, one, _ = areas_with(proposals, labels)
    number = labels[:, :, 4].gather(1, matched)
    crowd = ((labels[:, :, 4] < -1)[:, :, None] & (2 * both >= one)).any(dim=1)
    found = torch.where(overlap >= 0.5, number + 1, torch.where(crowd, -1, 0))
    return found.masked_fill(proposals[:, 2] <= proposals[:, 0], -1).long()


@weight(
    {_SCORES: ANCHOR_WEIGHT},
    dense=BOXES,
    latex=r"1",
    words="with all anchors alike",
    source="the mean over anchors; LD (arXiv:2102.12252) and CrossKD (arXiv:2306.11369), their baselines",
)
def every(teacher: Tensor, labels: Tensor) -> Tensor:
    """1.

    Logits N×K×M (for their size) to N×M.
    """
    return torch.ones_like(teacher[:, 0])


@weight(
    {_SCORES: ANCHOR_WEIGHT},
    dense=BOXES,
    latex=r"\max_{C}\,\sigma(z_{T})",
    words="where the teacher sees something",
    source="Du et al. 2021, arXiv:2111.14674 (FRS, feature richness score)",
)
def rich(teacher: Tensor, labels: Tensor) -> Tensor:
    """max over classes of σ(t).

    Logits N×K×M to N×M in [0, 1]; boxes have no part in it.
    """
    return torch.sigmoid(teacher).amax(dim=1)


@weight(
    {_BOXES: ANCHOR_WEIGHT},
    dense=BOXES,
    latex=r"\mathrm{IoU}_{T}",
    words="where the teacher's boxes are right",
    source="Dai et al. 2021, arXiv:2103.02340 (general instances), with the overlap in place of the score",
)
def overlap(teacher: Tensor, labels: Tensor) -> Tensor:
    """The largest overlap (intersection over union) of the teacher's box with an object.

    Boxes N×4×M and N×G×5 to N×M in [0, 1].
    """
    return overlaps_of_objects(teacher, labels).amax(dim=1).to(teacher.dtype)


@weight(
    {_GRID: ANCHOR_WEIGHT},
    dense=BOXES,
    latex=r"\mathbb{1}_{+}",
    words="at positive anchors",
    source="Lin et al. 2017, arXiv:1708.02002 (RetinaNet's assignment)",
)
def positives(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 where an anchor overlaps an object by half or more, or as the best anchor of some object; else 0.

    A grid N×4×M and boxes N×G×5 to N×M.
    """
    share = overlaps_of_objects(teacher, labels)
    best = share.amax(dim=2, keepdim=True)
    return ((share >= 0.5) | ((share == best) & (best > 0))).any(dim=1).to(teacher.dtype)


@weight(
    {_GRID: ANCHOR_WEIGHT},
    dense=BOXES,
    latex=r"\mathbb{1}_{o}",
    words="near objects",
    source="Wang et al. 2019, arXiv:1906.03609 (fine-grained imitation, ψ = 1/2)",
)
def near_anchor(teacher: Tensor, labels: Tensor) -> Tensor:
    """1 where an anchor overlaps an object at least half as much as the best anchor of that object does; else 0.

    A grid N×4×M and boxes N×G×5 to N×M.
    """
    share = overlaps_of_objects(teacher, labels)
    return ((share > 0) & (share >= 0.5 * share.amax(dim=2, keepdim=True))).any(dim=1).to(teacher.dtype)


@weighing(
    by_anchor=True,
    needs=(POSITIVES,),
    latex=r"\frac{1}{n_{+}}\sum <w>\,<x>",
    words="summed over anchors, in units of the positive ones,",
    source="Lin et al. 2017, arXiv:1708.02002 (RetinaNet), and CrossKD's implementation (arXiv:2306.11369)",
)
def by_positives(losses: Tensor, weights: Tensor, positives: Tensor) -> Tensor:
    """N · Σ w · loss / max(1, n), n the positive anchors of the whole batch.

    Losses, weights and positives (1 or 0), N×M each, to N; their mean is the batch's sum over its positive anchors, so
    that background does not decide how large it is.
    """
    count = positives.to(losses.dtype).sum().clamp(min=1)
    return (weights.to(losses.dtype) * losses).sum(dim=1) * (len(losses) / count)
