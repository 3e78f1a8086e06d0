"""A knowledge-distillation loss, written by kdzero-gp.

expression: add(add(times(focal(l2(logits)), 4), times(focal(mmd(pool_2(leaky_relu(feat)))), 2)),
    times(focal(mmd(tanh(norm_N(pool_2(leaky_relu(feat)))))), 2))
digest: 56b5bd08b52e680e
kind: evolved
pair: teacher resnet56, student resnet20, task cifar100
fitness: 0.898055 (cross-entropy alone: 1)
run: with-surrogate, seed 0, space open
versions: kdzero_gp 0.1.0, python 3.11.7, torch 2.14.1+cu130
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


def leaky_relu(x: Tensor) -> Tensor:
    """max(x, 0) + 0.01 · min(x, 0)."""
    return F.leaky_relu(x)


def pool_2(x: Tensor) -> Tensor:
    """Mean over each of 2×2 equal parts."""
    return F.adaptive_avg_pool2d(x, 2)


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (s − t)² over all but the batch."""
    return (student - teacher).square().flatten(1).mean(dim=1)


def focal(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of (1 − exp(−CE(student) / CE(teacher))) · loss."""
    student_entropy = F.cross_entropy(student_logits.detach(), labels, reduction="none")
    teacher_entropy = F.cross_entropy(teacher_logits, labels, reduction="none")
    weight = 1.0 - torch.exp(-student_entropy / (teacher_entropy + 1e-7))
    return (weight * losses).mean()


def mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """mean k(t, t) + mean k(s, s) − 2 mean k(s, t) over pairs of channels, k(a, b) = ⟨a, b⟩²."""
    student, teacher = student.flatten(2), teacher.flatten(2)
    if student.shape[2] <= max(student.shape[1], teacher.shape[1]):
        # ⟨a, b⟩² = ⟨a aᵀ, b bᵀ⟩: the same by a kernel of positions, which is the smaller one here.
        gram = torch.bmm(teacher.transpose(1, 2), teacher)
        one, other = 1.0 / student.shape[1], -1.0 / teacher.shape[1]
        gap = torch.baddbmm(gram, student.transpose(1, 2), student, alpha=one, beta=other)
        return gap.square().sum(dim=(1, 2))
    within_teacher = torch.bmm(teacher, teacher.transpose(1, 2)).square().mean(dim=(1, 2))
    within_student = torch.bmm(student, student.transpose(1, 2)).square().mean(dim=(1, 2))
    between = torch.bmm(student, teacher.transpose(1, 2)).square().mean(dim=(1, 2))
    return within_teacher + within_student - 2.0 * between


def norm_N(x: Tensor) -> Tensor:
    """x / max(‖x‖₂ over the batch, 10⁻⁸)."""
    return F.normalize(x, p=2.0, dim=0, eps=1e-8)


def tanh(x: Tensor) -> Tensor:
    """tanh(x)."""
    return torch.tanh(x)


class Distiller(nn.Module):
    """Distillation loss of mappings {"logits": N×C, "emb": N×D, "feat": N×C×H×W} and labels N."""

    EXPRESSION = (
        "add(add(times(focal(l2(logits)), 4), times(focal(mmd(pool_2(leaky_relu(feat)))), 2)), "
        "times(focal(mmd(tanh(norm_N(pool_2(leaky_relu(feat)))))), 2))"
    )
    MAGNITUDES = (2.01222, 0.0925762, 3641.83)

    def __init__(self) -> None:
        """Adapters, where the pair needs them, are learnt with the student."""
        super().__init__()
        self.magnitudes = self.MAGNITUDES

    @torch.no_grad()
    def prepare(self, teacher: Tensors, labels: Tensor) -> dict[str, Tensor]:
        """The teacher's part that belongs to each sample alone; may be computed once and kept."""
        logits_t = teacher["logits"].detach()  # N×100
        feat_t = teacher["feat"].detach()  # N×64×8×8
        leaky_relu_t = leaky_relu(feat_t)  # N×64×8×8
        pool_2_t = pool_2(leaky_relu_t)  # N×64×2×2
        return {"logits_t": logits_t, "pool_2_t": pool_2_t}

    def terms(self, student: Tensors, targets: Tensors, labels: Tensor) -> tuple[Tensor, ...]:
        """The losses before their magnitudes, from the student's tensors and prepared targets."""
        logits_s = student["logits"]  # N×100
        l2_losses = l2(logits_s, targets["logits_t"])
        focal_l2_loss = focal(l2_losses, logits_s, targets["logits_t"], labels)
        feat_s = student["feat"]  # N×64×8×8
        leaky_relu_s = leaky_relu(feat_s)  # N×64×8×8
        pool_2_s = pool_2(leaky_relu_s)  # N×64×2×2
        mmd_losses = mmd(pool_2_s, targets["pool_2_t"])
        focal_mmd_loss = focal(mmd_losses, logits_s, targets["logits_t"], labels)
        norm_N_s = norm_N(pool_2_s)  # N×64×2×2
        norm_N_t = norm_N(targets["pool_2_t"])  # N×64×2×2
        tanh_s = tanh(norm_N_s)  # N×64×2×2
        tanh_t = tanh(norm_N_t)  # N×64×2×2
        mmd_losses_2 = mmd(tanh_s, tanh_t)
        focal_mmd_loss_2 = focal(mmd_losses_2, logits_s, targets["logits_t"], labels)
        return (focal_l2_loss, focal_mmd_loss, focal_mmd_loss_2)

    def loss(self, student: Tensors, targets: Tensors, labels: Tensor) -> Tensor:
        """The distillation loss, a scalar, from prepared targets."""
        terms = self.terms(student, targets, labels)
        return self.magnitudes[0] * terms[0] + self.magnitudes[1] * terms[1] + self.magnitudes[2] * terms[2]

    def forward(self, student: Tensors, teacher: Tensors, labels: Tensor) -> Tensor:
        """The distillation loss, a scalar; add it to the cross-entropy."""
        return self.loss(student, self.prepare(teacher, labels), labels)
