"""Calibrations (the paper's loss weights): weigh the samples' losses and average them; and what combines losses.

A weight is a constant for the student: no gradient flows through it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import calibration, combination
from primitives.types import LOSS, MAGNITUDE, SCALAR

_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, section E.3"


@calibration(name="no", batch=True, source=_SUPPLEMENT, paper=True)
def mean_loss(losses: Tensor) -> Tensor:
    """mean of the losses.

    Any number of losses to a scalar.
    """
    return losses.mean()


@calibration(source=_SUPPLEMENT, paper=True)
def entropy(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of H(p) / log C · loss, p = softmax(teacher / 4).

    N losses and N×C logits to a scalar: samples that the teacher is unsure of count more. Weights lie in [0, 1].
    """
    log_probability = torch.log_softmax(teacher_logits / 4.0, dim=1)
    weight = -(log_probability.exp() * log_probability).sum(dim=1) / math.log(max(teacher_logits.shape[1], 2))
    return (weight * losses).mean()


@calibration(needs_labels=True, source=_SUPPLEMENT + ", eq. 13; Zhou et al. 2021, arXiv:2102.00650 (WSLD)", paper=True)
def focal(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of (1 − exp(−CE(student) / CE(teacher))) · loss.

    N losses, N×C logits and N labels to a scalar: samples that the student gets worse than the teacher count more.
    """
    student_entropy = F.cross_entropy(student_logits.detach(), labels, reduction="none")
    teacher_entropy = F.cross_entropy(teacher_logits, labels, reduction="none")
    weight = 1.0 - torch.exp(-student_entropy / (teacher_entropy + 1e-7))
    return (weight * losses).mean()


@calibration(source=_SUPPLEMENT, paper=True)
def sim(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of max(cos(student logits, teacher logits), 0) · loss.

    N losses and N×C logits to a scalar: samples on which both already agree count more. A negative weight would turn
    the loss around and drive the student away from the teacher, so it is 0.
    """
    weight = F.cosine_similarity(student_logits.detach(), teacher_logits, dim=1, eps=1e-8).clamp(min=0.0)
    return (weight * losses).mean()


@calibration(source=_SUPPLEMENT, paper=True)
def conf(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of max softmax(teacher) · loss.

    N losses and N×C logits to a scalar: samples that the teacher is sure of count more.
    """
    weight = torch.softmax(teacher_logits, dim=1).amax(dim=1)
    return (weight * losses).mean()


@combination({(SCALAR, MAGNITUDE): LOSS}, source=_SUPPLEMENT, paper=True)
def times(loss: Tensor, magnitude: float) -> Tensor:
    """γ · loss.

    A scalar and a listed number to a scalar. With relative magnitudes γ is the term's gradient norm in units of the
    cross-entropy's.
    """
    return magnitude * loss


@combination({(LOSS, LOSS): LOSS}, source="sum of losses, so that one distiller can use several knowledges")
def add(left: Tensor, right: Tensor) -> Tensor:
    """left + right.

    Two scalars to a scalar.
    """
    return left + right
