"""Tiny images with label maps: coloured shapes on noise, written as files."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((90, 90, 90), (200, 60, 60), (60, 60, 200))


def scene(generator: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image H×W×3 and its label map: background, a rectangle, a disc; 255 along the upper edge."""
    labels = np.zeros((height, width), dtype=np.uint8)
    top, left = generator.integers(0, height // 2), generator.integers(0, width // 2)
    labels[top : top + height // 3, left : left + width // 3] = 1
    rows, columns = np.mgrid[:height, :width]
    row, column = generator.integers(height // 4, height), generator.integers(width // 4, width)
    labels[(rows - row) ** 2 + (columns - column) ** 2 < (height // 5) ** 2] = 2
    pixels = np.array(COLOURS)[labels] + generator.normal(0, 25, (height, width, 3))
    labels[0] = 255
    return pixels.clip(0, 255).astype(np.uint8), labels


def write(root: Path, counts: dict[str, int], size: tuple[int, int] = (24, 32), seed: int = 0) -> Path:
    """``images/<part>/<n>.png`` and ``labels/<part>/<n>.png`` below ``root``."""
    generator = np.random.default_rng(seed)
    for part, count in counts.items():
        for number in range(count):
            for kind, array in zip(("images", "labels"), scene(generator, *size), strict=True):
                path = root / kind / part / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root
