"""Augmentation of whole batches on the device, with nothing drawn here: the caller draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Where the images of a batch go. ``offsets`` N×2 (row and column, 0 to 2·padding; padding leaves the image in its
    place) over a border of ``padding`` pixels, ``flipped`` N (bool) mirrors. With ``size`` (height and width) windows
    of that size are cut, whose upper left corners are the offsets; smaller images get a border below and to the right.
    """

    offsets: Tensor
    flipped: Tensor
    padding: int = 0
    size: tuple[int, int] | None = None

    @classmethod
    def windows(cls, offsets: Tensor, size: tuple[int, int]) -> Geometry:
        """Windows that are cut and nothing else."""
        return cls(offsets, torch.zeros(len(offsets), dtype=torch.bool), size=size)


def corners(
    shape: tuple[int, ...], images: tuple[int, ...], size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """The upper left corners …×2 of windows drawn from images of so many rows and columns."""
    room = torch.tensor([max(0, length - side) + 1 for length, side in zip(images, size, strict=True)])
    return (torch.rand((*shape, 2), generator=generator) * room).long()


def cropped(images: Tensor, geometry: Geometry, fill: int = 0) -> Tensor:
    """Images N×C×H×W moved, mirrored and cut, each in its own way; borders have the value ``fill``. One gather,
    whatever the batch holds."""
    count, _, height, width = images.shape
    padded = F.pad(images, (geometry.padding,) * 4, value=fill) if geometry.padding else images
    if geometry.size is not None:
        missing = [max(0, side - length) for side, length in zip(geometry.size, (height, width), strict=True)]
        padded = F.pad(images, (0, missing[1], 0, missing[0]), value=fill)
        height, width = geometry.size
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = torch.where(geometry.flipped[:, None], width - 1 - columns, columns)
    row, column = geometry.offsets[:, :1] + rows, geometry.offsets[:, 1:] + columns
    sample = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
