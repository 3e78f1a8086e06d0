"""What all detectors give alike: levels by their stride, boxes as shares of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from kdzero_gp.compiler.knowledge import PYRAMID
from kdzero_gp.models.geometry import decode_deltas, decode_distances

KINDS = {"anchors": decode_deltas, "priors": decode_deltas, "points": decode_distances}
"""What a detector's boxes are relative to, and so its kind: anchors with a sigmoid for each class (RetinaNet) or as
the first of two stages, priors with a softmax over the classes and the background (SSD), points with a centreness
(FCOS)."""

POINT_STRIDES = 8.0
"""The side of the anchor that a point stands for, in strides (ATSS, arXiv:1912.02424, tiles one such a point)."""

Outputs = dict[str, Tensor]


def named_levels(images: Tensor, levels: list[Tensor]) -> Outputs:
    """Maps, the finest first, by the logarithm of their stride, so that two networks' levels are matched by it; of two
    with one number, since few places round strides, the later has the next one."""
    named: Outputs = {}
    for level in levels:
        number = max(1, round(math.log2(images.shape[2] / level.shape[2])))
        while f"{PYRAMID}{number}" in named:
            number += 1
        named[f"{PYRAMID}{number}"] = level
    return named


def completed(outputs: Mapping[str, Tensor], images: Tensor) -> Outputs:
    """With ``boxes`` and ``grid`` as shares of the image, and ``size``. The grid are the boxes that anchors are, points
    being squares of ``POINT_STRIDES`` strides."""
    height, width = images.shape[2:]
    kind = next(kind for kind in KINDS if kind in outputs)
    scale, size = _constants(height, width, images.device)
    boxes = KINDS[kind](outputs["deltas"], outputs[kind]) / scale
    grid = outputs[kind]
    if kind == "points":
        grid = decode_distances(torch.full_like(grid, POINT_STRIDES / 2), grid)
    return dict(outputs) | {"boxes": boxes, "grid": grid / scale, "size": size.expand(len(images), 1, 2)}


@lru_cache(maxsize=64)
def _constants(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept, since a step that copies numbers to a device waits for it."""
    scale = torch.tensor([width, height, width, height], dtype=torch.float32, device=device)
    return scale[:, None], torch.tensor([[height, width]], dtype=torch.float32, device=device)
