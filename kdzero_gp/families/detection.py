"""Detection: boxes with classes, judged by COCO's average precision. Targets are those of ``kdzero_gp.data.boxes``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.compiler.knowledge import KnowledgeSpec
from kdzero_gp.data.augmentation import Geometry, cropped
from kdzero_gp.data.boxes import NOTHING
from kdzero_gp.families import Measure, Outputs, TaskFamily
from kdzero_gp.families.agreement import linear_cka
from kdzero_gp.families.boxes import detection_loss, detections, scores
from kdzero_gp.families.precision import average_precision, evaluator
from kdzero_gp.models.detection import TappedDetector, build
from kdzero_gp.models.geometry import corner_scale

LEVEL = re.compile(r"fpn\d+")
SURE_SCORES = 100
"""Of detectors with other anchors so many of the surest scores of an image are compared."""
DRAWN, DRAWN_SCORE = 40, 0.25
"""So many detections are drawn on an image, of those that are at least so sure."""
VISIBLE = 0.3
"""An object of which a window shows less, and that fills less of the window, does not count there."""


class Detection(TaskFamily):
    """Images to boxes with classes and scores."""

    name = "detection"
    knowledge: Mapping[str, KnowledgeSpec] = {
        "logits": KnowledgeSpec(("anchors",), "logits", adapted=False),
        "objectness": KnowledgeSpec(("anchors",), "logits", adapted=False),
        "deltas": KnowledgeSpec(("anchors",), adapted=False),
        "boxes": KnowledgeSpec(("boxes",), adapted=False),
        "grid": KnowledgeSpec(("grid",), adapted=False),
        "fpn*": KnowledgeSpec(("map",)),
        "proposals": KnowledgeSpec(("proposals",), adapted=False),
        "regions": KnowledgeSpec(("tokens",)),
        "region_logits": KnowledgeSpec(("tokens",), "logits", adapted=False),
    }
    at_student = ("regions", "region_logits")
    usual = ("logits", "objectness", "deltas", "boxes", "grid", "fpn3", "fpn4", "fpn5")
    measures = (
        Measure("ap", "AP", "%"),
        Measure("ap50", "AP50", "%"),
        Measure("detection_loss", "detection loss", "", higher_is_better=False),
    )
    decides = "ap"
    breaks_ties = "detection_loss"
    of_class = Measure("ap", "AP", "%")
    metrics = ("detection_loss", "error", "score_gap", "cka_gap")
    loss = "detection_loss"
    read = (
        "logits", "objectness", "deltas", "anchors", "priors", "points", "centreness", "boxes", "size", "proposals",
        "region_logits", "region_deltas", "fpn3", "fpn4", "fpn5",
    )  # fmt: skip

    def build(self, name: str, classes: int, channels: int) -> nn.Module:
        evaluator()  # missing it would be seen only after an epoch
        return build(name, classes, channels)

    def tap(self, network: nn.Module, example: Tensor, taps: Mapping[str, str] | None, classes: int) -> nn.Module:
        return TappedDetector(network, example, taps, classes)

    def own_loss(self, outputs: Outputs, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The detector's own losses of classes and boxes; labels are not smoothed."""
        return detection_loss(outputs, targets)

    def mimic(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean binary cross-entropy of the scores, with the teacher's as what is wanted."""
        return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())

    def shown(self, outputs: Outputs, size: tuple[int, int]) -> Tensor | None:
        """The surest detections, N×D×6: sides as shares of the image, the class and the score; −1 in place of the
        class where there are fewer."""
        found = detections(outputs)
        drawn = torch.full((len(found), DRAWN, 6), NOTHING)
        for image, boxes in enumerate(found):
            sure = boxes[boxes[:, 4] >= DRAWN_SCORE][:DRAWN].cpu()
            drawn[image, : len(sure), :4] = sure[:, :4] / corner_scale(outputs["size"].float().cpu())[image]
            drawn[image, : len(sure), 4:] = sure[:, [5, 4]]
        return drawn

    def guessing(self, classes: int) -> float:
        """About what an untrained RetinaNet or FCOS starts with, whatever the classes: focal losses near 1 and boxes
        off by their size."""
        return 2.0

    def chance(self, targets: Tensor, classes: int) -> float:
        """0.1 % AP: boxes at random rarely overlap by half."""
        return 1e-3

    def crop(self, images: Tensor, targets: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Boxes move with their images and are cut at the window's edge; those that are mostly outside are gone."""
        height, width = geometry.size or images.shape[2:]
        own = targets.new_tensor([images.shape[3], images.shape[2]] * 2)
        corners = (targets[..., :4] * own) + geometry.padding - geometry.offsets.flip(1).repeat(1, 2)[:, None]
        inside = corners.clamp(min=0).minimum(targets.new_tensor([width, height] * 2))
        areas = [(c[..., 2:] - c[..., :2]).prod(dim=2) for c in (inside, corners)]
        gone = (areas[0] < VISIBLE * areas[1].clamp(max=height * width)) & (targets[..., 4] != NOTHING)
        left, top, right, bottom = (inside / targets.new_tensor([width, height] * 2)).unbind(dim=2)
        mirrored = geometry.flipped[:, None]
        left, right = torch.where(mirrored, 1 - right, left), torch.where(mirrored, 1 - left, right)
        moved = torch.stack([left, top, right, bottom, targets[..., 4].masked_fill(gone, NOTHING)], dim=2)
        moved[..., :4] *= (moved[..., 4:] != NOTHING).to(moved.dtype)
        return cropped(images, geometry), moved

    def measure(self, batches: Iterable[tuple[Outputs, Tensor]]) -> dict[str, float]:
        """COCO's AP and AP50, ``ap_K`` of every class that occurs, and the mean of the own loss over images."""
        found: list[Tensor] = []
        truth: list[Tensor] = []
        losses: list[Tensor] = []
        classes = 0
        for outputs, targets in batches:
            classes = scores(outputs).shape[1]
            found += [one.cpu() for one in detections(outputs)]
            boxes = targets[..., :4] * corner_scale(outputs["size"])
            truth += list(torch.cat([boxes, targets[..., 4:]], dim=2).cpu())
            losses.append(detection_loss(outputs, targets).double().cpu() * len(targets))
        if not truth:
            return {}
        measured = average_precision(found, truth, classes)
        return measured and measured | {"detection_loss": float(torch.stack(losses).sum()) / len(truth)}

    def compare(self, student: Outputs, teacher: Outputs, targets: Tensor) -> dict[str, float]:
        """``score_gap``: Σ over classes of |teacher's score − student's|, the mean over anchors where the teacher is
        sure of something (of other anchors: mean |difference| of the surest scores of an image, in order); and the
        mean of 1 − CKA of the levels' means over space."""
        levels = [name for name in student if LEVEL.fullmatch(name) and name in teacher]
        gaps = [self.disagreement(name, student[name], teacher[name]) for name in levels]
        return {"score_gap": _score_gap(student, teacher), "cka_gap": sum(gaps) / max(1, len(gaps))}

    def disagreement(self, knowledge: str, student: Tensor, teacher: Tensor) -> float:
        """Mean binary KL(teacher ‖ student) of the scores, mean |difference| of deltas and boxes, 1 − CKA of a level's
        means over space."""
        if LEVEL.fullmatch(knowledge):
            return 1.0 - linear_cka(student.mean((2, 3)), teacher.mean((2, 3)))
        if knowledge in ("logits", "objectness"):
            return float(self.mimic(student, teacher) - self.mimic(teacher, teacher))
        return float((student - teacher).abs().mean())


def _score_gap(student: Outputs, teacher: Outputs) -> float:
    name = next((name for name in ("logits", "objectness") if name in student and name in teacher), "")
    if not name:
        return 0.0
    if student[name].shape == teacher[name].shape:
        given, wanted = student[name].float().sigmoid(), teacher[name].float().sigmoid()
        sure = (wanted.amax(dim=1) > 0.05).to(wanted.dtype)
        return float(((given - wanted).abs().sum(dim=1) * sure).sum() / sure.sum().clamp(min=1))
    surest = [
        side[name].float().sigmoid().amax(dim=1).topk(min(SURE_SCORES, side[name].shape[2])).values
        for side in (student, teacher)
    ]
    shown = min(part.shape[1] for part in surest)
    return float((surest[0][:, :shown] - surest[1][:, :shown]).abs().mean())


DETECTION = Detection()
