"""Augmentation of whole batches on the device, with nothing drawn here: the caller draws."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cropped(
    images: Tensor,
    padding: int,
    offsets: Tensor,
    flipped: Tensor,
    size: tuple[int, int] | None = None,
    fill: int = 0,
) -> Tensor:
    """Images NxCxHxW moved over a border of ``padding`` pixels of the value ``fill`` and mirrored, each in its own way.

    ``offsets`` Nx2 (row and column, 0 to 2·padding; padding leaves the image in its place), ``flipped`` N (bool). With
    ``size`` (height and width) windows of that size are cut, whose upper left corners are the offsets; smaller images
    get a border below and to the right. One gather, whatever the batch holds.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4, value=fill) if padding else images
    if size is not None:
        padded = F.pad(images, (0, max(0, size[1] - width), 0, max(0, size[0] - height)), value=fill)
        height, width = size
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = torch.where(flipped[:, None], width - 1 - columns, columns)
    row, column = offsets[:, :1] + rows, offsets[:, 1:] + columns
    sample = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
