"""Losses of detectors from all that they say at once, and their detections.

Targets N×G×5 as ``kdzero_gp.data.boxes`` gives them. The losses are those of torchvision's detectors, for whole batches
and without a look at the numbers, so that they run in a CUDA graph; what a crowd covers is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzero_gp.data.boxes import FIRST_CROWD
from kdzero_gp.models.geometry import (
    SCALES,
    corner_scale,
    decode_deltas,
    decode_distances,
    encode_deltas,
    overlaps,
    sides,
)

Outputs = Mapping[str, Tensor]

POSITIVE, NEGATIVE = 0.5, 0.4
"""Overlaps from which on, and up to which, an anchor holds an object or none (RetinaNet)."""
COVERED = 0.5
"""An anchor that lies in a crowd to this share does not count."""
CENTRE_RADIUS = 1.5
"""A point of FCOS is positive within so many strides of an object's centre."""
SMALLEST, LARGEST = 4.0, 8.0
"""The largest distance to a side that a level of FCOS regresses, in strides."""
FIRST_NEGATIVE, SAMPLED, POSITIVE_SHARE, BETA = 0.3, 256, 0.5, 1 / 9
"""Faster R-CNN's first stage: overlaps of positive anchors are from 0.7 on, of negative ones below 0.3; so many are
drawn, half of them positive at most; differences are squared below BETA."""
FIRST_POSITIVE = 0.7
NEGATIVES = 3.0
"""Of the background SSD counts so many of the worst priors for each positive one."""


@dataclass(frozen=True)
class Truth:
    """The boxes of a batch in pixels N×4×G, the classes N×G, and which rows are objects and which crowds."""

    boxes: Tensor
    number: Tensor
    real: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, targets: Tensor, size: Tensor) -> Truth:
        """Targets N×G×5 for images of ``size`` N×1×2."""
        number = targets[..., 4]
        boxes = (targets[..., :4] * corner_scale(size)).transpose(1, 2)
        return cls(boxes, number.clamp(min=0).long(), number >= 0, number <= FIRST_CROWD)

    def at(self, matched: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes N×4×M and classes N×M of the matched rows N×M."""
        return self.boxes.gather(2, matched[:, None].expand(-1, 4, -1)), self.number.gather(1, matched)


def detection_loss(outputs: Outputs, targets: Tensor) -> Tensor:
    """The detector's own loss, a scalar: classes and boxes, as its kind has them."""
    return next(loss for kind, loss in LOSSES.items() if kind in outputs)(outputs, targets)


def _covered(truth: Truth, places: Tensor) -> Tensor:
    """Which anchors lie in crowds, N×M."""
    _, share = overlaps(truth.boxes, places)
    return ((share >= COVERED) & truth.crowd[:, :, None]).any(dim=1)


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of each score with α = 1/4, γ = 2 (arXiv:1708.02002)."""
    p = torch.sigmoid(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = torch.where(wanted > 0, 1 - p, p)
    return torch.where(wanted > 0, 0.25, 0.75) * missed.square() * cross_entropy


def _one_hot(number: Tensor, positive: Tensor, classes: int) -> Tensor:
    """N×K×M: 1 at the class of a positive place."""
    return F.one_hot(number, classes).transpose(1, 2).float() * positive[:, None]


def match_anchors(truth: Truth, anchors: Tensor, positive: float = POSITIVE) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor the row that it overlaps most, its overlap, and whether it is positive: from an overlap of
    ``positive`` on, or as the best anchor of some object. All N×M."""
    overlap, _ = overlaps(truth.boxes, anchors)
    overlap = overlap.masked_fill(~truth.real[:, :, None], -1.0)
    best, matched = overlap.max(dim=1)
    highest = overlap.amax(dim=2, keepdim=True)
    best_of_some = ((overlap == highest) & (highest > 0)).any(dim=1)
    return matched, best, (best >= positive) | best_of_some


def retinanet_loss(outputs: Outputs, targets: Tensor) -> Tensor:
    """Focal loss of the classes and |deltas − wanted ones| of the positive anchors, each summed and divided by the
    positive anchors of the image, then the mean over images."""
    truth, anchors, logits = Truth.of(targets, outputs["size"]), outputs["anchors"], outputs["logits"]
    matched, best, positive = match_anchors(truth, anchors)
    counted = (positive | (best < NEGATIVE)) & (positive | ~_covered(truth, anchors))
    boxes, number = truth.at(matched)
    classes = focal(logits, _one_hot(number, positive, logits.shape[1])).sum(dim=1)
    off = (outputs["deltas"] - encode_deltas(_or(boxes, anchors, positive), anchors)).abs().sum(dim=1)
    found = positive.sum(dim=1).clamp(min=1)
    return (((classes * counted).sum(dim=1) + (off * positive).sum(dim=1)) / found).mean()


def _or(boxes: Tensor, others: Tensor, where: Tensor) -> Tensor:
    """Boxes where they count, else others, so that nothing divides by a side of 0."""
    return torch.where(where[:, None], boxes, others)


def match_points(truth: Truth, points: Tensor) -> tuple[Tensor, Tensor]:
    """For each point the smallest object that it lies in, near whose centre it is and whose size is its level's, and
    whether there is one. Both N×M."""
    x, y, stride, _ = (side[:, None] for side in sides(points))
    left, top, right, bottom = (truth.boxes[:, side, :, None] for side in range(4))
    distances = torch.stack([x - left, y - top, right - x, bottom - y])
    middle_x, middle_y, width, height = (side[:, :, None] for side in sides(truth.boxes))
    near = torch.maximum((x - middle_x).abs(), (y - middle_y).abs()) < CENTRE_RADIUS * stride
    lowest = torch.where(stride == stride.amin(), 0.0, SMALLEST * stride)
    highest = torch.where(stride == stride.amax(), torch.inf, LARGEST * stride)
    furthest = distances.amax(dim=0)
    fits = near & (distances.amin(dim=0) > 0) & (furthest > lowest) & (furthest < highest) & truth.real[:, :, None]
    smallest, matched = torch.where(fits, width * height, torch.inf).min(dim=1)
    return matched, smallest < torch.inf


def fcos_loss(outputs: Outputs, targets: Tensor) -> Tensor:
    """Focal loss of the classes, 1 − GIoU of the boxes and binary cross-entropy of the centreness at positive points,
    summed over the batch and divided by its positive points."""
    from torchvision.ops import generalized_box_iou_loss

    truth, points, logits = Truth.of(targets, outputs["size"]), outputs["points"], outputs["logits"]
    matched, positive = match_points(truth, points)
    boxes, number = truth.at(matched)
    counted = positive | ~_covered(truth, points)
    classes = focal(logits, _one_hot(number, positive, logits.shape[1])).sum(dim=1) * counted
    wanted = _or(boxes, points, positive)
    given = _or(decode_distances(outputs["deltas"], points), points, positive)
    off = generalized_box_iou_loss(given.transpose(1, 2), wanted.transpose(1, 2))
    x, y, _, _ = sides(points)
    left, top, right, bottom = wanted.unbind(dim=1)
    across, down = torch.stack([x - left, right - x]), torch.stack([y - top, bottom - y])
    centred = (across.amin(dim=0) / across.amax(dim=0)) * (down.amin(dim=0) / down.amax(dim=0))
    centred = torch.where(positive, centred, 1.0).clamp(min=0).sqrt()
    middle = F.binary_cross_entropy_with_logits(outputs["centreness"][:, 0], centred, reduction="none")
    return (classes + (off + middle) * positive).sum() / positive.sum().clamp(min=1)


def ssd_loss(outputs: Outputs, targets: Tensor) -> Tensor:
    """Cross-entropy over classes and background at positive priors and at the worst three times as many others, and
    smooth |deltas − wanted ones| at positive ones, summed over the batch and divided by its positive priors."""
    truth, priors, logits = Truth.of(targets, outputs["size"]), outputs["priors"], outputs["logits"]
    matched, _, positive = match_anchors(truth, priors)
    boxes, number = truth.at(matched)
    scale = torch.tensor(SCALES, device=logits.device)[:, None]
    wanted = encode_deltas(_or(boxes, priors, positive), priors)
    off = F.smooth_l1_loss(outputs["deltas"] * scale, wanted * scale, reduction="none").sum(dim=1) * positive
    all_logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
    classes = F.cross_entropy(all_logits, torch.where(positive, number + 1, 0), reduction="none")
    background = classes.detach().masked_fill(positive | _covered(truth, priors), -torch.inf)
    rank = background.argsort(dim=1, descending=True).argsort(dim=1)
    hard = (rank < NEGATIVES * positive.sum(dim=1, keepdim=True)) & background.isfinite()
    return (classes * (positive | hard) + off).sum() / positive.sum().clamp(min=1)


def two_stage_loss(outputs: Outputs, targets: Tensor) -> Tensor:
    """Of the first stage binary cross-entropy and smooth |deltas − wanted ones|, of the second cross-entropy over
    classes and background and the same of its boxes, over all proposals.

    Where torchvision draws anchors this is the mean over all draws: the negative ones count as much as those that would
    be drawn of them.
    """
    truth, anchors = Truth.of(targets, outputs["size"]), outputs["anchors"]
    matched, best, positive = match_anchors(truth, anchors, FIRST_POSITIVE)
    negative = ~positive & (best < FIRST_NEGATIVE) & ~_covered(truth, anchors)
    boxes, _ = truth.at(matched)
    count = positive.sum(dim=1, keepdim=True)
    drawn = count.clamp(max=int(SAMPLED * POSITIVE_SHARE))
    others = negative.sum(dim=1, keepdim=True)
    left = torch.minimum(SAMPLED - drawn, others)
    weight = positive * drawn / count.clamp(min=1) + negative * left / others.clamp(min=1)
    objectness = F.binary_cross_entropy_with_logits(
        outputs["objectness"][:, 0], positive.float(), reduction="none"
    )  # fmt: skip
    off = _smooth(outputs["deltas"], encode_deltas(_or(boxes, anchors, positive), anchors))
    seen = weight.sum().clamp(min=1)
    first = (weight * objectness).sum() / seen + (weight * positive * off).sum() / seen
    return first + _region_loss(outputs, truth)


def proposals_in_pixels(outputs: Outputs) -> Tensor:
    """The proposals of a first stage N×4×P in pixels."""
    return outputs["proposals"].float() * corner_scale(outputs["size"].float()).transpose(1, 2)


def _smooth(given: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(given, wanted, beta=BETA, reduction="none").sum(dim=1)


def _region_loss(outputs: Outputs, truth: Truth) -> Tensor:
    """The loss of the second stage."""
    proposals, logits = proposals_in_pixels(outputs), outputs["region_logits"]
    there = proposals[:, 2] > proposals[:, 0]
    places = _or(proposals, torch.tensor([0.0, 0.0, 1.0, 1.0], device=proposals.device)[:, None], there)
    overlap, _ = overlaps(truth.boxes, places)
    best, matched = overlap.masked_fill(~truth.real[:, :, None], -1.0).max(dim=1)
    positive = (best >= POSITIVE) & there
    counted = there & (positive | ~_covered(truth, places))
    boxes, number = truth.at(matched)
    classes = F.cross_entropy(logits, torch.where(positive, number + 1, 0), reduction="none")
    each = outputs["region_deltas"].unflatten(1, (-1, 4))
    own = each.gather(1, number[:, None, None].expand(-1, 1, 4, -1))[:, 0]
    scale = torch.tensor(SCALES, device=logits.device)[:, None]
    off = _smooth(own * scale, encode_deltas(_or(boxes, places, positive), places) * scale)
    return (classes * counted + off * positive).sum() / counted.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Outputs, Tensor], Tensor]] = {
    "proposals": two_stage_loss, "anchors": retinanet_loss, "points": fcos_loss, "priors": ssd_loss
}  # fmt: skip


# --- detections ---------------------------------------------------------------------------------------------

LEAST_SCORE = 0.05
CANDIDATES = 1000
"""So many of the highest scores of an image are looked at, over all its levels (torchvision: of each level)."""
MOST = 100
"""Detections of an image that count, as in COCO's evaluation."""
SAME = {"proposals": 0.5, "anchors": 0.5, "points": 0.6, "priors": 0.45}
"""Of boxes of one class that overlap more the best stays, as torchvision has it."""


def scores(outputs: Outputs) -> Tensor:
    """How sure a detector is of each class at each anchor, N×K×M in [0, 1]."""
    if "proposals" in outputs:
        there = outputs["proposals"][:, 2:3] > outputs["proposals"][:, :1]
        return outputs["region_logits"].float().softmax(dim=1)[:, 1:] * there
    logits = outputs["logits"].float()
    if "priors" in outputs:
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1).softmax(dim=1)[:, 1:]
    if "centreness" in outputs:
        return (logits.sigmoid() * outputs["centreness"].float().sigmoid()).sqrt()
    return logits.sigmoid()


def _boxes_of_each(outputs: Outputs, classes: int) -> Tensor:
    """Boxes in pixels inside the image, N×M×4; of a second stage, which has some of each class, N×KP×4."""
    scale = corner_scale(outputs["size"].float())
    if "proposals" not in outputs:
        return outputs["boxes"].float().clamp(0, 1).transpose(1, 2) * scale
    each = outputs["region_deltas"].float().unflatten(1, (classes, 4))
    boxes = decode_deltas(each, proposals_in_pixels(outputs)[:, None].expand_as(each)).transpose(2, 3).flatten(1, 2)
    return torch.minimum(boxes.clamp(min=0), scale)


def detections(outputs: Outputs) -> list[Tensor]:
    """For each image what was found, D×6 from the surest on: the box in pixels, the score and the class."""
    from torchvision.ops import batched_nms

    kind = next(kind for kind in SAME if kind in outputs)
    sure = scores(outputs)
    places = sure.shape[2]
    boxes = _boxes_of_each(outputs, sure.shape[1])
    top, at = sure.flatten(1).topk(min(CANDIDATES, sure[0].numel()))
    found = []
    for image, (score, place) in enumerate(zip(top, at, strict=True)):
        some = score > LEAST_SCORE
        score, place = score[some], place[some]
        number, corners = place // places, boxes[image, place % boxes.shape[1]]
        kept = batched_nms(corners, score, number, SAME[kind])[:MOST]
        found.append(torch.cat([corners[kept], score[kept, None], number[kept, None].float()], dim=1))
    return found
