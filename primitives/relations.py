"""Transforms that relate samples to samples, channels to channels, or classes to the label."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import operator, transform
from primitives.types import TEMPERATURE, PairType, pairs

_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, listing 2"
_listed = partial(transform, source=_SUPPLEMENT, paper=True)


@_listed(
    {given: PairType("tokens") for given in pairs("tokens", "map")},
    latex=operator("Gram", "C"),
    words="channel-to-channel products of <x>",
    source=_SUPPLEMENT + " (ICKD)",
)
def bmm(x: Tensor) -> Tensor:
    """X Xᵀ for each sample, X with a row for each channel.

    N×C×M or N×C×H×W to N×C×C.
    """
    rows = x.flatten(2)
    return torch.bmm(rows, rows.transpose(1, 2))


@_listed(
    {given: PairType("relation") for given in pairs("matrix", "tokens", "map", "plane")},
    per_sample=False,
    latex=operator("Gram", "N"),
    words="sample-to-sample similarities of <x>",
    flattening=True,
    source=_SUPPLEMENT + ", eq. 4 (SP)",
)
def mm(x: Tensor) -> Tensor:
    """X Xᵀ, X with a row for each sample.

    N×… to N×N. (The listing leaves matrices as they are.)
    """
    rows = x.flatten(1)
    return rows @ rows.t()


@transform(
    {given: PairType("relation") for given in pairs("matrix", "tokens", "map", "plane")},
    per_sample=False,
    latex=operator("dist", "N"),
    words="sample-to-sample distances of <x>",
    non_negative=True,
    flattening=True,
    source="Park et al. 2019, arXiv:1904.05068 (RKD, distance-wise)",
)
def pdist(x: Tensor) -> Tensor:
    """‖xᵢ − xⱼ‖₂ / mean of the positive ones.

    N×… to N×N with a zero diagonal; squared distances are at least 10⁻¹².
    """
    rows = x.flatten(1)
    squares = rows.square().sum(dim=1)
    squared = (squares[:, None] + squares[None, :] - 2.0 * rows @ rows.t()).clamp(min=1e-12)
    distances = squared.sqrt() * (1.0 - torch.eye(len(rows), dtype=x.dtype, device=x.device))
    return distances / (distances.sum() / (distances > 0).sum().clamp(min=1)).clamp(min=1e-12)


@transform(
    {given: PairType("tokens") for given in pairs("matrix")},
    per_sample=False,
    latex=operator("angle", "N"),
    words="angles between samples of <x>",
    source="Park et al. 2019, arXiv:1904.05068 (RKD, angle-wise)",
)
def angles(x: Tensor) -> Tensor:
    """cos ∠(xⱼ, xᵢ, xₖ).

    N×C to N×N×N: entry (i, j, k) is the cosine of the angle at xᵢ. Memory grows with N²·C + N³.
    """
    unit = F.normalize(x[None, :, :] - x[:, None, :], p=2.0, dim=2, eps=1e-8)
    return torch.bmm(unit, unit.transpose(1, 2))


@transform(
    {given: PairType("columns") for given in pairs("matrix")},
    per_sample=False,
    latex=r"<b>^{\top}",
    words="batch profile, for each of the <C>, of <x>",
    source="Huang et al. 2022, arXiv:2205.10536 (DIST, intra-class relation)",
)
def transpose(x: Tensor) -> Tensor:
    """Xᵀ.

    N×C to C×N: a distance then compares, for each class or feature, its values over the batch.
    """
    return x.t()


def at_places(labels: Tensor, x: Tensor) -> Tensor:
    """Label maps N×H×W at the size of a map N×C×h×w: the label at each place's centre.

    Labels N×(H·W) are those of a map, a square one where it is not of the size of x.
    """
    if labels.dim() == 2:
        side = math.isqrt(labels.shape[1])
        fitting = labels.shape[1] == x.shape[2] * x.shape[3]
        labels = labels.reshape(len(x), *(x.shape[2:] if fitting else (side, side)))
    if labels.shape[1:] == x.shape[2:]:
        return labels
    rows, columns = (
        ((torch.arange(size, device=labels.device) + 0.5) * (length / size)).long()
        for size, length in zip(x.shape[2:], labels.shape[1:], strict=True)
    )
    return labels[:, rows][:, :, columns]


_CLASSES = {
    given: PairType(given.rank, "log_probability", "C") for given in pairs("matrix", "tokens", "map", kinds=("logits",))
}


def at_labels(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with zeros where there is no label (a negative one), and which of them are the label's class."""
    labels = (at_places(labels, x) if x.dim() == 4 else labels).reshape(len(x), 1, *x.shape[2:])
    classes = torch.arange(x.shape[1], device=x.device).view(-1, *[1] * (x.dim() - 2))
    return x.masked_fill(labels < 0, 0.0), classes == labels.clamp(min=0)


@transform(
    _CLASSES,
    parameters=(TEMPERATURE,),
    needs=("labels",),
    latex=r"\log\,\mathrm{softmax}_{\{y,\bar{y}\}}\left(<x><T>\right)",
    words="<T>log-probabilities of the labelled class and of all others, from <x>",
    source="Zhao et al. 2022, arXiv:2203.08679 (DKD, target class)",
)
def target(x: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """(log p_y, log(1 − p_y)) with p = softmax(x / T).

    Logits N×C(×…) and labels N(×…) to N×2(×…) log-probabilities; where the label is negative, they depend on nothing.
    """
    x, is_target = at_labels(x, labels)
    log_probability = torch.log_softmax(x / temperature, dim=1)
    log_target = log_probability.masked_fill(~is_target, float("-inf")).logsumexp(dim=1)
    log_rest = log_probability.masked_fill(is_target, float("-inf")).logsumexp(dim=1)
    return torch.stack((log_target, log_rest), dim=1)


@transform(
    _CLASSES,
    parameters=(TEMPERATURE,),
    needs=("labels",),
    latex=r"\log\,\mathrm{softmax}_{C\setminus y}\left(<x><T>\right)",
    words="<T>log-softmax over the classes other than the label of <x>",
    source="Zhao et al. 2022, arXiv:2203.08679 (DKD, other classes)",
)
def nontarget(x: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """log softmax(x / T − 1000 · onehot(y)).

    Logits N×C(×…) and labels N(×…) to log-probabilities of the same shape over the classes other than the label's;
    where the label is negative, they depend on nothing.
    """
    x, is_target = at_labels(x, labels)
    return torch.log_softmax(x / temperature - 1000.0 * is_target.to(x.dtype), dim=1)
