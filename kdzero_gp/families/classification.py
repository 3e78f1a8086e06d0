"""Classification: one label an image, logits N×C, judged by accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.compiler.knowledge import CLASSIFICATION_KNOWLEDGE
from kdzero_gp.families import Measure, Outputs, TaskFamily
from kdzero_gp.families.agreement import cka, linear_cka
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped

# Standard errors above the share of the most common class that are still chance.
CHANCE_ERRORS = 2.0


class Classification(TaskFamily):
    """Images to one of C classes. Targets are labels N (int64)."""

    name = "classification"
    knowledge = CLASSIFICATION_KNOWLEDGE
    usual = ("logits", "emb", "feat")
    measures = (
        Measure("accuracy", "accuracy", "%"),
        Measure("cross_entropy", "cross-entropy", "", higher_is_better=False),
    )
    decides = "accuracy"
    breaks_ties = "cross_entropy"
    metrics = ("cross_entropy", "calibrated", "error", "sharpness_gap", "cka_gap")
    loss = "cross_entropy"
    read = ("logits", "emb")

    def build(self, name: str, classes: int, channels: int) -> nn.Module:
        return build(name, classes, channels)

    def tap(self, network: nn.Module, example: Tensor, taps: Mapping[str, str] | None, classes: int) -> nn.Module:
        return Tapped(network, example, taps, classes)

    def own_loss(self, outputs: Outputs, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """−mean log softmax(logits) at the label, in nats; targets N, or N×C shares of classes."""
        return F.cross_entropy(outputs["logits"], targets, label_smoothing=smoothing)

    def guessing(self, classes: int) -> float:
        """log C."""
        return math.log(classes)

    def chance(self, targets: Tensor, classes: int) -> float:
        """The share of the most common class plus two standard errors: what naming it always may reach."""
        share = torch.bincount(targets, minlength=classes).max().item() / max(1, len(targets))
        return share + CHANCE_ERRORS * math.sqrt(share * (1.0 - share) / max(1, len(targets)))

    def predicted(self, outputs: Outputs) -> Tensor:
        return outputs["logits"].argmax(dim=1)

    def measure(self, batches: Iterable[tuple[Outputs, Tensor]]) -> dict[str, float]:
        """Accuracy in 0..1, and the mean cross-entropy in nats."""
        right, losses, count = [], [], 0
        for outputs, labels in batches:
            logits = outputs["logits"].float()
            right.append((logits.argmax(dim=1) == labels).sum())
            losses.append(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
        if not count:
            return {}
        # read at the end, since every look stops an accelerator's queue
        sums = {"accuracy": torch.stack(right).tolist(), "cross_entropy": torch.stack(losses).tolist()}
        return {name: sum(values) / count for name, values in sums.items()}

    def compare(self, student: Outputs, teacher: Outputs, targets: Tensor) -> dict[str, float]:
        return {name: gap.item() for name, gap in gaps(student, teacher, targets).items()}

    def disagreement(self, knowledge: str, student: Tensor, teacher: Tensor) -> float:
        """KL(teacher ‖ student) of the logits' softmax, 1 − CKA of embeddings and maps."""
        if knowledge == "logits":
            return float(
                F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
            )
        return 1.0 - linear_cka(student.flatten(1), teacher.flatten(1), len(student))


def gaps(student: Outputs, teacher: Outputs, labels: Tensor) -> dict[str, Tensor]:
    """The metrics of ``compare`` as scalars on the networks' device, none of which was waited for."""
    found = {
        "calibrated": _calibrated(student["logits"], labels),
        "sharpness_gap": _sharpness(student["logits"], teacher["logits"]),
    }
    if "emb" in student and "emb" in teacher:
        found["cka_gap"] = 1.0 - cka(student["emb"], teacher["emb"])
    return found


def _calibrated(logits: Tensor, labels: Tensor) -> Tensor:
    """min over β of −mean log softmax(β · logits) at the label, in nats. Logits N×C, labels N.

    The cross-entropy at the best single temperature 1/β (Guo et al. 2017, arXiv:1706.04599): what a distiller does to
    the sharpness of the logits alone neither helps nor harms it. Convex in β; β is sought in e⁻⁵ … e³.
    """
    own = logits.gather(1, labels[:, None]).mean()
    low, high = (torch.full((), end, dtype=torch.float64, device=logits.device) for end in (-5.0, 3.0))
    for _ in range(16):
        middle = (low + high) / 2
        rises = (torch.softmax(middle.exp() * logits, dim=1) * logits).sum(dim=1).mean() > own
        low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
    return F.cross_entropy(((low + high) / 2).exp() * logits, labels)


def _sharpness(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """mean |log Σ exp(teacher) − log Σ exp(student)| over samples, logits N×C.

    Sharpness as the log-sum-exp of the logits. KD-Zero names a sharpness gap without a formula; this reading follows
    Rao et al. 2022, arXiv:2206.06067, and is our choice.
    """
    return (teacher_logits.logsumexp(dim=1) - student_logits.logsumexp(dim=1)).abs().mean()


CLASSIFICATION = Classification()
