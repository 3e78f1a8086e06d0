"""What is measured on the validation images after a proxy training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Images in one estimate of CKA; the unbiased estimator makes the mean independent of it.
CKA_BATCH = 256


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """−mean log softmax(logits) at the label, in nats. Logits N×C, labels N."""
    return F.cross_entropy(logits, labels).item()


def calibrated_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """min over β of −mean log softmax(β · logits) at the label, in nats. Logits N×C, labels N.

    The cross-entropy at the best single temperature 1/β (Guo et al. 2017, arXiv:1706.04599): what a distiller does to
    the sharpness of the logits alone neither helps nor harms it. Convex in β; β is sought in e⁻⁵ … e³.
    """
    return _calibrated(logits, labels).item()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of labels that have the largest logit, in 0..1."""
    return _accuracy(logits, labels).item()


def sharpness_gap(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """mean |log Σ exp(teacher) − log Σ exp(student)| over samples, logits N×C.

    Sharpness as the log-sum-exp of the logits. KD-Zero names a sharpness gap without a formula; this reading follows
    Rao et al. 2022, arXiv:2206.06067, and is our choice.
    """
    return _sharpness(student_logits, teacher_logits).item()


def linear_cka(student: Tensor, teacher: Tensor, batch: int = CKA_BATCH) -> float:
    """Linear centred kernel alignment of embeddings N×D and N×E, 1 for equal up to rotation and scale.

    Mini-batch version with the unbiased estimator of HSIC, Nguyen et al. 2021, arXiv:2010.15327, eq. 2-3; needs at
    least 4 samples. Small negative values are possible.
    """
    return _cka(student, teacher, batch).item()


def tensors(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """The metrics as scalars on the networks' device, none of which was waited for."""
    found = {
        "cross_entropy": F.cross_entropy(student["logits"], labels),
        "calibrated": _calibrated(student["logits"], labels),
        "accuracy": _accuracy(student["logits"], labels),
        "sharpness_gap": _sharpness(student["logits"], teacher["logits"]),
    }
    if "emb" in student and "emb" in teacher:
        found["cka_gap"] = 1.0 - _cka(student["emb"], teacher["emb"])
    return found


def all_metrics(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """The metrics of one trained student on validation images, from both networks' outputs."""
    return {name: value.item() for name, value in tensors(student, teacher, labels).items()}


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).float().mean()


def _sharpness(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (teacher_logits.logsumexp(dim=1) - student_logits.logsumexp(dim=1)).abs().mean()


def _calibrated(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None]).mean()
    low = torch.full((), -5.0, dtype=torch.float64, device=logits.device)
    high = torch.full((), 3.0, dtype=torch.float64, device=logits.device)
    for _ in range(16):
        middle = (low + high) / 2
        rises = (torch.softmax(middle.exp() * logits, dim=1) * logits).sum(dim=1).mean() > own
        low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
    return F.cross_entropy(((low + high) / 2).exp() * logits, labels)


def _cka(student: Tensor, teacher: Tensor, batch: int = CKA_BATCH) -> Tensor:
    sums = torch.zeros(3, dtype=torch.float64, device=student.device)
    for start in range(0, len(student) - 3, batch):
        left, right = student[start : start + batch].double(), teacher[start : start + batch].double()
        left, right = left @ left.t(), right @ right.t()
        sums += torch.stack([_hsic(left, right), _hsic(left, left), _hsic(right, right)])
    scale = (sums[1] * sums[2]).clamp(min=0.0).sqrt()
    return torch.where(scale > 0, sums[0] / scale, 0.0)


def _hsic(one: Tensor, other: Tensor) -> Tensor:
    """The unbiased estimator of the Hilbert-Schmidt independence criterion of two kernel matrices n×n."""
    count = len(one)
    one, other = one - torch.diag(one.diag()), other - torch.diag(other.diag())
    trace = (one * other).sum()
    product = one.sum() * other.sum() / ((count - 1) * (count - 2))
    mixed = 2.0 / (count - 2) * (one.sum(dim=0) @ other.sum(dim=0))
    return (trace + product - mixed) / (count * (count - 3))
