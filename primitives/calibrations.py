"""Calibrations (the paper's loss weights): weigh the samples' losses and average them; and what combines losses.

A weight is a constant for the student: no gradient flows through it. Logits have their classes in dimension 1; where
they have places behind it (N×C×M, N×C×H×W), the weight of a sample is the mean over its places.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import calibration, combination
from primitives.labelled import of_labelled_places, of_labelled_samples
from primitives.relations import at_places
from primitives.types import LOSS, MAGNITUDE, SCALAR

_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, section E.3"
_listed = partial(calibration, source=_SUPPLEMENT, paper=True)


def by_sample(weight: Tensor) -> Tensor:
    """Mean over the places of each sample: N or N×… to N."""
    return weight.flatten(1).mean(dim=1) if weight.dim() > 1 else weight


def seen_alike(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The student's logits without gradient; those that are a map, at the size of the teacher's, by means."""
    student_logits = student_logits.detach()
    if student_logits.dim() == 4 and student_logits.shape[2:] != teacher_logits.shape[2:]:
        return F.adaptive_avg_pool2d(student_logits, (teacher_logits.shape[2], teacher_logits.shape[3]))
    return student_logits


@_listed(name="no", batch=True, latex="", words="averaged over the batch", note="plain mean")
def mean_loss(losses: Tensor) -> Tensor:
    """mean of the losses.

    Any number of losses to a scalar.
    """
    return losses.mean()


@_listed(
    needs=("teacher_logits",),
    latex=r"\frac{H(\mathrm{softmax}_{C}(z_T/4))}{\log\,C}",
    words="weighted by the teacher's uncertainty",
    note="teacher unsure",
)
def entropy(losses: Tensor, teacher_logits: Tensor) -> Tensor:
    """mean of H(p) / log C · loss, p = softmax(teacher / 4).

    N losses and N×C(×…) logits to a scalar: samples that the teacher is unsure of count more. Weights lie in [0, 1].
    """
    log_probability = torch.log_softmax(teacher_logits / 4.0, dim=1)
    weight = -(log_probability.exp() * log_probability).sum(dim=1) / math.log(max(teacher_logits.shape[1], 2))
    return (by_sample(weight) * losses).mean()


@_listed(
    needs=("student_logits", "teacher_logits", "labels"),
    latex=r"\left(1-e^{-\mathrm{CE}(z_S,y)/\mathrm{CE}(z_T,y)}\right)",
    words="weighted towards samples on which the student is worse than the teacher",
    note="student behind",
    source=_SUPPLEMENT + ", eq. 13; Zhou et al. 2021, arXiv:2102.00650 (WSLD)",
)
def focal(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of (1 − exp(−CE(student) / CE(teacher))) · loss.

    N losses, N×C(×…) logits and N(×…) labels to a scalar: samples that the student gets worse than the teacher count
    more. Places with a negative label are left out of both means.
    """
    labels = at_places(labels, teacher_logits) if teacher_logits.dim() == 4 else labels
    labels = labels.reshape(len(losses), *teacher_logits.shape[2:])
    labels = labels.masked_fill(labels < 0, -100)  # what cross_entropy leaves out
    student_logits = seen_alike(student_logits, teacher_logits)
    student_entropy = F.cross_entropy(student_logits, labels, reduction="none")
    teacher_entropy = F.cross_entropy(teacher_logits, labels, reduction="none")
    weight = 1.0 - torch.exp(-student_entropy / (teacher_entropy + 1e-7))
    weight = by_sample(weight)
    if labels.dim() > 1:
        weight = of_labelled_places(weight, labels)
    return of_labelled_samples(weight * losses, labels).mean()


@_listed(
    needs=("student_logits", "teacher_logits"),
    latex=r"\max(\cos(z_S,\,z_T),\,0)",
    words="weighted by how much the student's and the teacher's logits agree",
    note="both agree",
)
def sim(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """mean of max(cos(student logits, teacher logits), 0) · loss.

    N losses and N×C(×…) logits to a scalar: samples on which both already agree count more. A negative weight would
    turn the loss around and drive the student away from the teacher, so it is 0.
    """
    student_logits = seen_alike(student_logits, teacher_logits)
    weight = F.cosine_similarity(student_logits, teacher_logits, dim=1, eps=1e-8).clamp(min=0.0)
    return (by_sample(weight) * losses).mean()


@_listed(
    needs=("teacher_logits",),
    latex=r"\max_{C}\,\mathrm{softmax}_{C}(z_T)",
    words="weighted by the teacher's confidence",
    note="teacher sure",
)
def conf(losses: Tensor, teacher_logits: Tensor) -> Tensor:
    """mean of max softmax(teacher) · loss.

    N losses and N×C(×…) logits to a scalar: samples that the teacher is sure of count more.
    """
    weight = torch.softmax(teacher_logits, dim=1).amax(dim=1)
    return (by_sample(weight) * losses).mean()


@combination(
    {(SCALAR, MAGNITUDE): LOSS}, latex=r"<N>\,<x>", words="with magnitude", symbol="×", source=_SUPPLEMENT, paper=True
)
def times(loss: Tensor, magnitude: float) -> Tensor:
    """γ · loss.

    A scalar and a listed number to a scalar. With relative magnitudes γ is the term's gradient norm in units of the
    cross-entropy's.
    """
    return magnitude * loss


@combination(
    {(LOSS, LOSS): LOSS},
    latex="<t>+<s>",
    words="plus",
    symbol="+",
    source="sum of losses, so that one distiller can use several knowledges",
)
def add(left: Tensor, right: Tensor) -> Tensor:
    """left + right.

    Two scalars to a scalar.
    """
    return left + right
