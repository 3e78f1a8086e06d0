"""A knowledge-distillation loss, written by kdzero-gp.

expression: add(add(add(add(add(times(conf(mmd(feat)), 0.1), times(conf(mmd(feat)), 0.1)),
    times(focal(l2(logits)), 0.5)), times(no(kl_mean(proportion_C(mm(norm_C(emb))))), 1)),
    times(no(kl_mean(proportion_C(scale(mm(drop(norm_C(emb))))))), 1)), times(no(pear(transpose(abs(emb)))),
    5))
digest: c6ad0264dd8c4fda
kind: evolved
pair: teacher resnet56, student resnet20, task cifar100
fitness: 0.884491 (cross-entropy alone: 1)
run: cifs, seed 0, space open
versions: kdzero_gp 0.1.0, python 3.11.7, torch 2.14.1+cu130
race: mean validation accuracy 0.1905, 2 seeds
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


def norm_C(x: Tensor) -> Tensor:
    """x / max(‖x‖₂ over dimension 1, 10⁻⁸)."""
    return F.normalize(x, p=2.0, dim=1, eps=1e-8)


def absolute(x: Tensor) -> Tensor:
    """|x|."""
    return x.abs()


def mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """mean k(t, t) + mean k(s, s) − 2 mean k(s, t) over pairs of channels, k(a, b) = ⟨a, b⟩²."""
    student, teacher = student.flatten(2), teacher.flatten(2)
    within_teacher = torch.bmm(teacher, teacher.transpose(1, 2)).square().mean(dim=(1, 2))
    within_student = torch.bmm(student, student.transpose(1, 2)).square().mean(dim=(1, 2))
    between = torch.bmm(student, teacher.transpose(1, 2)).square().mean(dim=(1, 2))
    return within_teacher + within_student - 2.0 * between


def conf(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of max softmax(teacher) · loss."""
    weight = torch.softmax(teacher_logits, dim=1).amax(dim=1)
    return (weight * losses).mean()


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (s − t)² over all but the batch."""
    return (student - teacher).square().flatten(1).mean(dim=1)


def focal(losses: Tensor, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """mean of (1 − exp(−CE(student) / CE(teacher))) · loss."""
    student_entropy = F.cross_entropy(student_logits.detach(), labels, reduction="none")
    teacher_entropy = F.cross_entropy(teacher_logits, labels, reduction="none")
    weight = 1.0 - torch.exp(-student_entropy / (teacher_entropy + 1e-7))
    return (weight * losses).mean()


def mm(x: Tensor) -> Tensor:
    """X Xᵀ, X with a row for each sample."""
    rows = x.flatten(1)
    return rows @ rows.t()


def proportion_C(x: Tensor) -> Tensor:
    """max(x, 0) / Σ max(x, 0) over dimension 1."""
    positive = x.clamp(min=0.0) + 1e-12
    return positive / positive.sum(dim=1, keepdim=True)


def kl_terms(student: Tensor, teacher: Tensor) -> Tensor:
    """t · (log t − log s), each number with 10⁻⁷ added in the logarithm (PKT's convention)."""
    return teacher * ((teacher + 1e-7).log() - (student + 1e-7).log())


def mean_over_rest(terms: Tensor) -> Tensor:
    """Mean over everything but the batch: N values."""
    return terms.flatten(1).mean(dim=1)


def mean_loss(losses: Tensor) -> Tensor:
    """mean of the losses."""
    return losses.mean()


def drop_noise(x: Tensor) -> Tensor:
    """0 with probability 0.1 and 1/0.9 otherwise, one draw for each sample and channel: N×C(×1×1)."""
    kept = torch.rand(x.shape[:2], device=x.device, dtype=x.dtype) >= 0.1
    return (kept.to(x.dtype) / 0.9).view(*x.shape[:2], *[1] * (x.dim() - 2))


def drop(x: Tensor, noise: Tensor) -> Tensor:
    """x · M / 0.9 with M = 0 for a tenth of the channels."""
    return x * noise


def scale(x: Tensor) -> Tensor:
    """(x + 1) / 2."""
    return (x + 1.0) / 2.0


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


class Distiller(nn.Module):
    """Distillation loss of mappings {"logits": N×C, "emb": N×D, "feat": N×C×H×W} and labels N."""

    EXPRESSION = (
        "add(add(add(add(add(times(conf(mmd(feat)), 0.1), times(conf(mmd(feat)), 0.1)), "
        "times(focal(l2(logits)), 0.5)), times(no(kl_mean(proportion_C(mm(norm_C(emb))))), 1)), "
        "times(no(kl_mean(proportion_C(scale(mm(drop(norm_C(emb))))))), 1)), "
        "times(no(pear(transpose(abs(emb)))), 5))"
    )
    MAGNITUDES = (2.21829e-06, 2.21829e-06, 0.265513, 505.205, 4403.97, 17.3473)

    def __init__(self) -> None:
        """Adapters, where the pair needs them, are learnt with the student."""
        super().__init__()
        self.magnitudes = self.MAGNITUDES

    @torch.no_grad()
    def prepare(self, teacher: Tensors, labels: Tensor) -> dict[str, Tensor]:
        """The teacher's part that belongs to each sample alone; may be computed once and kept."""
        feat_t = teacher["feat"].detach()  # N×64×8×8
        logits_t = teacher["logits"].detach()  # N×100
        emb_t = teacher["emb"].detach()  # N×64
        norm_C_t = norm_C(emb_t)  # N×64
        abs_t = absolute(emb_t)  # N×64
        return {"feat_t": feat_t, "logits_t": logits_t, "norm_C_t": norm_C_t, "abs_t": abs_t}

    def terms(self, student: Tensors, targets: Tensors, labels: Tensor) -> tuple[Tensor, ...]:
        """The losses before their magnitudes, from the student's tensors and prepared targets."""
        feat_s = student["feat"]  # N×64×8×8
        mmd_losses = mmd(feat_s, targets["feat_t"])
        logits_s = student["logits"]  # N×100
        conf_mmd_loss = conf(mmd_losses, logits_s, targets["logits_t"], labels)
        conf_mmd_loss_2 = conf(mmd_losses, logits_s, targets["logits_t"], labels)
        l2_losses = l2(logits_s, targets["logits_t"])
        focal_l2_loss = focal(l2_losses, logits_s, targets["logits_t"], labels)
        emb_s = student["emb"]  # N×64
        norm_C_s = norm_C(emb_s)  # N×64
        mm_s = mm(norm_C_s)  # N×N
        mm_t = mm(targets["norm_C_t"])  # N×N
        proportion_C_s = proportion_C(mm_s)  # N×N
        proportion_C_t = proportion_C(mm_t)  # N×N
        kl_mean_elements = kl_terms(proportion_C_s, proportion_C_t)
        kl_mean_losses = mean_over_rest(kl_mean_elements)
        kl_mean_loss = mean_loss(kl_mean_losses)
        drop_draw = drop_noise(norm_C_s)
        drop_s = drop(norm_C_s, drop_draw)  # N×64
        drop_t = drop(targets["norm_C_t"], drop_draw)  # N×64
        mm_2_s = mm(drop_s)  # N×N
        mm_2_t = mm(drop_t)  # N×N
        scale_s = scale(mm_2_s)  # N×N
        scale_t = scale(mm_2_t)  # N×N
        proportion_C_2_s = proportion_C(scale_s)  # N×N
        proportion_C_2_t = proportion_C(scale_t)  # N×N
        kl_mean_elements_2 = kl_terms(proportion_C_2_s, proportion_C_2_t)
        kl_mean_losses_2 = mean_over_rest(kl_mean_elements_2)
        kl_mean_loss_2 = mean_loss(kl_mean_losses_2)
        abs_s = absolute(emb_s)  # N×64
        transpose_s = transpose(abs_s)  # 64×N
        transpose_t = transpose(targets["abs_t"])  # 64×N
        pear_losses = pear(transpose_s, transpose_t)
        pear_loss = mean_loss(pear_losses)
        return (conf_mmd_loss, conf_mmd_loss_2, focal_l2_loss, kl_mean_loss, kl_mean_loss_2, pear_loss)

    def loss(self, student: Tensors, targets: Tensors, labels: Tensor) -> Tensor:
        """The distillation loss, a scalar, from prepared targets."""
        terms = self.terms(student, targets, labels)
        return (
            self.magnitudes[0] * terms[0]
            + self.magnitudes[1] * terms[1]
            + self.magnitudes[2] * terms[2]
            + self.magnitudes[3] * terms[3]
            + self.magnitudes[4] * terms[4]
            + self.magnitudes[5] * terms[5]
        )

    def forward(self, student: Tensors, teacher: Tensors, labels: Tensor) -> Tensor:
        """The distillation loss, a scalar; add it to the cross-entropy."""
        return self.loss(student, self.prepare(teacher, labels), labels)
