"""How much two networks agree, whatever the task."""

from __future__ import annotations

import torch
from torch import Tensor

# Images in one estimate of CKA; the unbiased estimator makes the mean independent of it.
CKA_BATCH = 256


def _hsic(one: Tensor, other: Tensor) -> Tensor:
    """The unbiased estimator of the Hilbert-Schmidt independence criterion of two kernel matrices n×n."""
    count = len(one)
    one, other = one - torch.diag(one.diag()), other - torch.diag(other.diag())
    trace = (one * other).sum()
    product = one.sum() * other.sum() / ((count - 1) * (count - 2))
    mixed = 2.0 / (count - 2) * (one.sum(dim=0) @ other.sum(dim=0))
    return (trace + product - mixed) / (count * (count - 3))


def linear_cka(student: Tensor, teacher: Tensor, batch: int = CKA_BATCH) -> float:
    """Linear centred kernel alignment of embeddings N×D and N×E, 1 for equal up to rotation and scale.

    Mini-batch version with the unbiased estimator of HSIC, Nguyen et al. 2021, arXiv:2010.15327, eq. 2-3; needs at
    least 4 samples. Small negative values are possible.
    """
    return cka(student, teacher, batch).item()


def cka(student: Tensor, teacher: Tensor, batch: int = CKA_BATCH) -> Tensor:
    """``linear_cka`` as a scalar on the tensors' device, not waited for."""
    sums = torch.zeros(3, dtype=torch.float64, device=student.device)
    for start in range(0, len(student) - 3, batch):
        left, right = student[start : start + batch].double(), teacher[start : start + batch].double()
        left, right = left @ left.t(), right @ right.t()
        sums += torch.stack([_hsic(left, right), _hsic(left, left), _hsic(right, right)])
    scale = (sums[1] * sums[2]).clamp(min=0.0).sqrt()
    return torch.where(scale > 0, sums[0] / scale, 0.0)
