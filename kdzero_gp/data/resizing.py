"""One rule for all sizes: an image is resized to cover the size and cropped around the centre."""

from __future__ import annotations

import torch.nn.functional as F

from kdzero_gp.data.inputs import Inputs, is_image
from kdzero_gp.errors import SettingError

Size = tuple[int, int]
"""Height and width in pixels."""


def parse_size(text: str | int) -> Size:
    """Height and width from ``32`` or ``48x64``. Raises SettingError.

    >>> parse_size("48x64"), parse_size(32)
    ((48, 64), (32, 32))
    """
    height, _, width = str(text).lower().replace("×", "x").partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = 0, 0
    if min(size) < 1:
        raise SettingError(f"--image-size takes pixels a side, or height x width such as 48x64, got {text!r}")
    return size


def size_text(size: Size) -> str:
    """A size as the command line has it.

    >>> size_text((48, 64)), size_text((32, 32))
    ('48x64', '32')
    """
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def resized(images: Inputs, size: int | Size | None) -> Inputs:
    """Float images N×C×H×W at a size (0 or None: as they are), bilinear with antialiasing; what a size of other
    proportions does not hold is cut off evenly on both sides. What is no image stays as it is."""
    if not size or not is_image(images):
        return images
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = images.shape[-2:]
    if (height, width) == (rows, columns):
        return images
    scale = max(height / rows, width / columns)
    down, across = min(rows, round(height / scale)), min(columns, round(width / scale))
    top, left = (rows - down) // 2, (columns - across) // 2
    cut = images[..., top : top + down, left : left + across]
    return F.interpolate(cut, (height, width), mode="bilinear", antialias=True, align_corners=False)
