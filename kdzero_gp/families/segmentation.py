"""Segmentation: one label a pixel, logits N×K×h×w before they are enlarged, judged by the mean IoU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.compiler.knowledge import KnowledgeSpec
from kdzero_gp.data.augmentation import Geometry, cropped
from kdzero_gp.families import Measure, Outputs, TaskFamily
from kdzero_gp.families.agreement import linear_cka
from kdzero_gp.models.segmentation import TappedMaps, build

# What a pixel without a label has as its target.
IGNORED = -1
# So many images are enlarged to the size of their label maps at a time.
ENLARGED_IMAGES = 16


class Segmentation(TaskFamily):
    """Images to a class for every pixel. Targets are label maps N×H×W (int64), −1 where a pixel has none."""

    name = "segmentation"
    knowledge: Mapping[str, KnowledgeSpec] = {
        "logits": KnowledgeSpec(("map",), "logits"),
        "feat*": KnowledgeSpec(("map",)),
        "low": KnowledgeSpec(("map",)),
        "aux": KnowledgeSpec(("map",)),
    }
    usual = ("logits", "feat", "low")
    measures = (
        Measure("miou", "mean IoU", "%"),
        Measure("pixel_accuracy", "pixel accuracy", "%"),
        Measure("cross_entropy", "cross-entropy", "", higher_is_better=False),
    )
    decides = "miou"
    breaks_ties = "cross_entropy"
    of_class = Measure("iou", "IoU", "%")
    metrics = ("cross_entropy", "error", "disagreement_gap", "sharpness_gap", "cka_gap")
    loss = "cross_entropy"
    read = ("logits", "feat")

    def build(self, name: str, classes: int, channels: int) -> nn.Module:
        return build(name, classes, channels)

    def tap(self, network: nn.Module, example: Tensor, taps: Mapping[str, str] | None, classes: int) -> nn.Module:
        return TappedMaps(network, example, taps, classes)

    def own_loss(self, outputs: Outputs, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """−mean log softmax(enlarged logits) at the label over labelled pixels, in nats; 0 where there are none."""
        logits = enlarged(outputs["logits"], targets)
        total = F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def mimic(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over pixels of KL(teacher ‖ student), at the size of the teacher's logits."""
        student = F.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)
        terms = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True)
        return terms.sum(dim=1).mean()

    def shown(self, outputs: Outputs, size: tuple[int, int]) -> Tensor | None:
        """The surest class of each pixel, N×H×W."""
        logits = F.interpolate(outputs["logits"].float(), size, mode="bilinear", align_corners=False)
        return logits.argmax(dim=1)

    def guessing(self, classes: int) -> float:
        """log K."""
        return math.log(classes)

    def chance(self, targets: Tensor, classes: int) -> float:
        """The mean IoU of the most frequent class everywhere."""
        labelled = targets[targets != IGNORED]
        if not len(labelled):
            return 0.0
        counts = torch.bincount(labelled.flatten(), minlength=classes).double()
        return float(counts.max() / counts.sum() / max(1, int((counts > 0).sum())))

    def crop(self, images: Tensor, targets: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Label maps move with their images; what lies outside has no label."""
        return cropped(images, geometry), cropped(targets[:, None], geometry, fill=IGNORED)[:, 0]

    def measure(self, batches: Iterable[tuple[Outputs, Tensor]]) -> dict[str, float]:
        """The mean over classes of intersection over union, the share of pixels that are right and the cross-entropy in
        nats, all over the labelled pixels of all images together; and ``iou_K`` of every class that occurs."""
        confusion: Tensor | None = None
        losses: list[Tensor] = []
        for outputs, targets in batches:
            for logits, labels in _in_parts(outputs["logits"], targets):
                classes = logits.shape[1]
                labelled = labels != IGNORED
                pairs = labels[labelled] * classes + logits.argmax(dim=1)[labelled]
                counted = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
                confusion = counted if confusion is None else confusion + counted
                losses.append(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").double())
        if confusion is None or not int(confusion.sum()):
            return {}
        return scores(confusion) | {"cross_entropy": float(torch.stack(losses).sum()) / int(confusion.sum())}

    def compare(self, student: Outputs, teacher: Outputs, targets: Tensor) -> dict[str, float]:
        """On labelled pixels, at the size of the teacher's logits: the share to which both give other classes, and mean
        |log Σ exp(teacher) − log Σ exp(student)|; and 1 − CKA of the maps' means over space."""
        given, wanted = student["logits"].float(), teacher["logits"].float()
        given = F.interpolate(given, wanted.shape[2:], mode="bilinear", align_corners=False)
        counted = at_size(targets, wanted.shape[2:]) != IGNORED
        number = counted.sum().clamp(min=1)
        other = (given.argmax(dim=1) != wanted.argmax(dim=1)) & counted
        sharpness = (wanted.logsumexp(dim=1) - given.logsumexp(dim=1)).abs() * counted
        gaps = {"disagreement_gap": float(other.sum() / number), "sharpness_gap": float(sharpness.sum() / number)}
        if "feat" in student and "feat" in teacher:
            gaps["cka_gap"] = self.disagreement("feat", student["feat"], teacher["feat"])
        return gaps

    def disagreement(self, knowledge: str, student: Tensor, teacher: Tensor) -> float:
        """Mean over pixels of KL(teacher ‖ student) of the logits, 1 − CKA of the maps' means over space."""
        if knowledge == "logits":
            return float(self.mimic(student, teacher))
        return 1.0 - linear_cka(student.mean((2, 3)), teacher.mean((2, 3)))


def scores(confusion: Tensor) -> dict[str, float]:
    """``miou``, ``pixel_accuracy`` and ``iou_K`` of a confusion matrix, labels down and predictions across. The mean is
    over classes that occur as a label or a prediction."""
    right = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - right
    occurring = union > 0
    each = right / union.clamp(min=1)
    numbers = {f"iou_{index}": float(value) for index, value in enumerate(each) if occurring[index]}
    return {"miou": float(each[occurring].mean()), "pixel_accuracy": float(right.sum() / confusion.sum())} | numbers


def enlarged(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits at the size of label maps N×H×W, bilinear."""
    if logits.shape[2:] == targets.shape[1:]:
        return logits
    return F.interpolate(logits, targets.shape[1:], mode="bilinear", align_corners=False)


def at_size(targets: Tensor, size: Iterable[int]) -> Tensor:
    """Label maps N×H×W at another size: the label at each place's centre."""
    shown = F.interpolate(targets[:, None].float(), tuple(size), mode="nearest-exact")
    return shown[:, 0].long()


def _in_parts(logits: Tensor, targets: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    for part, labels in zip(logits.split(ENLARGED_IMAGES), targets.split(ENLARGED_IMAGES), strict=True):
        yield enlarged(part.float(), labels), labels


SEGMENTATION = Segmentation()
