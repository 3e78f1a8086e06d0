"""What is without a label counts nowhere: a negative label is none, of a sample or of a place of a label map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.relations import at_places


def where_labelled(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The student's logits, and the teacher's where there is no label, so that nothing is learnt there."""
    if teacher.shape[2:] != student.shape[2:]:
        size = (student.shape[2], student.shape[3])
        teacher = F.interpolate(teacher, size, mode="bilinear", align_corners=False)
    return torch.where(at_places(labels, student)[:, None] >= 0, student, teacher)


def softmax_labelled(x: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """softmax(x / T) over the places with a label, 0 at the others: N×C×H×W, kept."""
    void = (at_places(labels, x) < 0)[:, None]
    rest = x.masked_fill(void, torch.finfo(x.dtype).min).flatten(2)
    return torch.softmax(rest / temperature, dim=2).view_as(x).masked_fill(void, 0.0)


def logsoftmax_labelled(x: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """log softmax(x / T) over the places with a label, 0 at the others: N×C×H×W, kept."""
    void = (at_places(labels, x) < 0)[:, None]
    rest = x.masked_fill(void, torch.finfo(x.dtype).min).flatten(2)
    return torch.log_softmax(rest / temperature, dim=2).view_as(x).masked_fill(void, 0.0)


def of_labelled_places(losses: Tensor, labels: Tensor) -> Tensor:
    """Means over all places, where those without a label are 0, as means over the labelled places: N to N."""
    labelled = (labels >= 0).flatten(1)
    return losses * (labelled.shape[1] / labelled.sum(dim=1).clamp(min=1)).to(losses.dtype)


def of_labelled_samples(losses: Tensor, labels: Tensor) -> Tensor:
    """N values whose mean is that of the samples with a label; 0 for the others."""
    labelled = (labels >= 0).reshape(len(losses), -1).any(dim=1)
    return losses.masked_fill(~labelled, 0.0) * (len(losses) / labelled.sum().clamp(min=1))


def of_labelled_batch(losses: Tensor, labels: Tensor) -> Tensor:
    """Losses of a whole batch, 0 where none of it has a label."""
    return losses.masked_fill(~(labels >= 0).any(), 0.0)
