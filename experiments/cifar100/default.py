"""A knowledge-distillation loss, written by kdzero-gp.

expression: times(no(pear(transpose(softmax_C(softmax_C(logits, 4), 1)))), 4)
digest: 2592863212118067
kind: evolved
pair: teacher resnet56, student resnet20, task cifar100
fitness: 0.953371 (cross-entropy alone: 1)
run: cB, seed 0, space open
versions: kdzero_gp 0.1.0, python 3.11.7, torch 2.14.1+cu130
race: mean validation accuracy 0.2310, 2 seeds
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


def softmax_C(x: Tensor, temperature: float) -> Tensor:
    """softmax(x / T) over dimension 1."""
    return torch.softmax(x / temperature, dim=1)


def transpose(x: Tensor) -> Tensor:
    """Xᵀ."""
    return x.t()


def along(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides with the compared vectors in dimension 1: channels, or space where there is one channel."""
    if student.dim() > 2 and student.shape[1] == teacher.shape[1] == 1:
        return student.flatten(1), teacher.flatten(1)
    return student, teacher


def cos(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − ⟨s, t⟩ / (‖s‖ ‖t‖ + 10⁻⁸) along dimension 1, mean over the rest."""
    student, teacher = along(student, teacher)
    cosine = (student * teacher).sum(dim=1) / (student.norm(dim=1) * teacher.norm(dim=1) + 1e-8)
    return 1.0 - cosine.flatten(1).mean(dim=1) if cosine.dim() > 1 else 1.0 - cosine


def pear(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − Pearson correlation along dimension 1, mean over the rest."""
    student, teacher = along(student, teacher)
    return cos(student - student.mean(dim=1, keepdim=True), teacher - teacher.mean(dim=1, keepdim=True))


def mean_loss(losses: Tensor) -> Tensor:
    """mean of the losses."""
    return losses.mean()


class Distiller(nn.Module):
    """Distillation loss of mappings {"logits": N×C, "emb": N×D, "feat": N×C×H×W} and labels N."""

    EXPRESSION = "times(no(pear(transpose(softmax_C(softmax_C(logits, 4), 1)))), 4)"
    MAGNITUDES = (29.8925,)

    def __init__(self) -> None:
        """Adapters, where the pair needs them, are learnt with the student."""
        super().__init__()
        self.magnitudes = self.MAGNITUDES

    @torch.no_grad()
    def prepare(self, teacher: Tensors, labels: Tensor) -> dict[str, Tensor]:
        """The teacher's part that belongs to each sample alone; may be computed once and kept."""
        logits_t = teacher["logits"].detach()  # N×100
        softmax_C_t = softmax_C(logits_t, 4.0)  # N×100
        softmax_C_2_t = softmax_C(softmax_C_t, 1.0)  # N×100
        return {"softmax_C_2_t": softmax_C_2_t}

    def terms(self, student: Tensors, targets: Tensors, labels: Tensor) -> tuple[Tensor, ...]:
        """The losses before their magnitudes, from the student's tensors and prepared targets."""
        logits_s = student["logits"]  # N×100
        softmax_C_s = softmax_C(logits_s, 4.0)  # N×100
        softmax_C_2_s = softmax_C(softmax_C_s, 1.0)  # N×100
        transpose_s = transpose(softmax_C_2_s)  # 100×N
        transpose_t = transpose(targets["softmax_C_2_t"])  # 100×N
        pear_losses = pear(transpose_s, transpose_t)
        pear_loss = mean_loss(pear_losses)
        return (pear_loss,)

    def loss(self, student: Tensors, targets: Tensors, labels: Tensor) -> Tensor:
        """The distillation loss, a scalar, from prepared targets."""
        terms = self.terms(student, targets, labels)
        return self.magnitudes[0] * terms[0]

    def forward(self, student: Tensors, teacher: Tensors, labels: Tensor) -> Tensor:
        """The distillation loss, a scalar; add it to the cross-entropy."""
        return self.loss(student, self.prepare(teacher, labels), labels)
