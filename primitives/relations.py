"""Transforms that relate samples to samples, channels to channels, or classes to the label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import transform
from primitives.types import LOGITS, TEMPERATURE, PairType, pairs

_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, listing 2"


@transform(
    {given: PairType("tokens") for given in pairs("tokens", "map")},
    source=_SUPPLEMENT + " (ICKD)",
    paper=True,
)
def bmm(x: Tensor) -> Tensor:
    """X Xᵀ for each sample, X with a row for each channel.

    N×C×M or N×C×H×W to N×C×C.
    """
    rows = x.flatten(2)
    return torch.bmm(rows, rows.transpose(1, 2))


@transform(
    {given: PairType("relation") for given in pairs("matrix", "tokens", "map", "plane")},
    per_sample=False,
    source=_SUPPLEMENT + ", eq. 4 (SP)",
    paper=True,
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
    source="Huang et al. 2022, arXiv:2205.10536 (DIST, intra-class relation)",
)
def transpose(x: Tensor) -> Tensor:
    """Xᵀ.

    N×C to C×N: a distance then compares, for each class or feature, its values over the batch.
    """
    return x.t()


@transform(
    {LOGITS: PairType("matrix", "log_probability", "C")},
    parameters=(TEMPERATURE,),
    needs_labels=True,
    source="Zhao et al. 2022, arXiv:2203.08679 (DKD, target class)",
)
def target(x: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """(log p_y, log(1 − p_y)) with p = softmax(x / T).

    Logits N×C and labels N to N×2 log-probabilities.
    """
    log_probability = torch.log_softmax(x / temperature, dim=1)
    is_target = F.one_hot(labels, x.shape[1]).bool()
    log_target = log_probability.masked_fill(~is_target, float("-inf")).logsumexp(dim=1)
    log_rest = log_probability.masked_fill(is_target, float("-inf")).logsumexp(dim=1)
    return torch.stack((log_target, log_rest), dim=1)


@transform(
    {LOGITS: PairType("matrix", "log_probability", "C")},
    parameters=(TEMPERATURE,),
    needs_labels=True,
    source="Zhao et al. 2022, arXiv:2203.08679 (DKD, other classes)",
)
def nontarget(x: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """log softmax(x / T − 1000 · onehot(y)).

    Logits N×C and labels N to N×C log-probabilities over the classes other than the label's.
    """
    is_target = F.one_hot(labels, x.shape[1]).to(x.dtype)
    return torch.log_softmax(x / temperature - 1000.0 * is_target, dim=1)
