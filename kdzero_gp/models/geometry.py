"""Boxes N×4×M (left, top, right, bottom in pixels) from what detectors say of their anchors, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST_GROWTH = math.log(1000.0 / 16)
"""No box is more than e to this times as large as its anchor, as in torchvision's coder."""
LEAST = 1e-6
"""Pixels that a side is taken to have at least where its logarithm or a quotient is taken."""

SCALES = (10.0, 10.0, 5.0, 5.0)
"""SSD's heads and the second stage of Faster R-CNN give deltas times these."""


def sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, centre y, width and height of boxes …×4×M, each …×M."""
    left, top, right, bottom = boxes.unbind(dim=-2)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes of the shifts and logarithmic growths of anchors, Girshick et al. 2014, arXiv:1311.2524."""
    x, y, width, height = sides(anchors)
    dx, dy, dw, dh = deltas.unbind(dim=-2)
    x, y = x + dx * width, y + dy * height
    half_width = 0.5 * width * dw.clamp(max=MOST_GROWTH).exp()
    half_height = 0.5 * height * dh.clamp(max=MOST_GROWTH).exp()
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-2)


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of ``decode_deltas``."""
    x, y, width, height = sides(anchors)
    to_x, to_y, to_width, to_height = sides(boxes)
    growths = [(to_width / width).clamp(min=LEAST).log(), (to_height / height).clamp(min=LEAST).log()]
    return torch.stack([(to_x - x) / width, (to_y - y) / height, *growths], dim=-2)


def decode_distances(distances: Tensor, points: Tensor) -> Tensor:
    """Boxes of the distances from a point's centre to the four sides, in units of its size (FCOS, arXiv:1904.01355)."""
    x, y, width, height = sides(points)
    left, top, right, bottom = distances.unbind(dim=-2)
    return torch.stack([x - left * width, y - top * height, x + right * width, y + bottom * height], dim=-2)


def corner_scale(size: Tensor) -> Tensor:
    """What turns shares of images of ``size`` N×1×2 (height and width) into pixels, N×1×4."""
    return size.flip(2).repeat(1, 1, 2)


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and over the area of the second, of boxes N×4×G and N×4×M: N×G×M each."""
    left, top, right, bottom = (boxes[:, side, :, None] for side in range(4))
    to_left, to_top, to_right, to_bottom = (others[:, side, None, :] for side in range(4))
    width = (torch.minimum(right, to_right) - torch.maximum(left, to_left)).clamp(min=0)
    height = (torch.minimum(bottom, to_bottom) - torch.maximum(top, to_top)).clamp(min=0)
    both = width * height
    area, other = (right - left) * (bottom - top), (to_right - to_left) * (to_bottom - to_top)
    return both / (area + other - both).clamp(min=LEAST), both / other.clamp(min=LEAST)
