"""Parts of a data set that is read whole, image by image: their order, what is split off, and the usual size."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from kdzero_gp.data.dataset import TEST_SHARE, VALIDATION_SHARE
from kdzero_gp.data.decoding import open_image
from kdzero_gp.data.images import File, Source
from kdzero_gp.data.resizing import Size
from kdzero_gp.errors import DataError


class ImagePart(Protocol):
    """Images of one part with their targets."""

    def __len__(self) -> int: ...

    def at(self: Part, indices: Sequence[int]) -> Part:
        """These images alone."""


Part = TypeVar("Part", bound=ImagePart)


def _order(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def shuffled(part: Part, seed: int) -> Part:
    """A part in an order of which every prefix is a sample."""
    return part.at(_order(len(part), seed))


def split_off_missing(parts: dict[str, Part], origins: dict[str, str], path: Path, seed: int) -> None:
    """Take a test and a validation part out of the training images where there is none, and say so in ``origins``.
    Raises DataError where there are too few."""
    for name, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if name in parts and len(parts[name]):
            continue
        train = parts["train"]
        order = _order(len(train), seed)
        count = max(1, round(share * len(order)))
        if len(order) <= count + 1:
            raise DataError(f"{path} has too few images to split off a {name} part; add one")
        parts[name], parts["train"] = train.at(sorted(order[:count])), train.at(sorted(order[count:]))
        origins[name] = f"the training images (split off, {share:.0%})"


def must_have_labels(part: str, images: int, labels: int, noun: str, path: Path) -> None:
    """Raises DataError where the ``images`` of a part that a training learns from or is judged by have no label."""
    if labels == 0 and part in ("train", "validation"):
        raise DataError(
            f"none of the {images} {part} images of {path} has {noun}, so that there is nothing to "
            f"{'learn' if part == 'train' else 'judge by'}; give {part} images that have some"
        )


def image_sizes(source: Source, files: Iterable[File]) -> Counter[Size]:
    """How many images have each size; those that cannot be decoded are named where they are read. Raises DataError
    where none can."""
    sizes: Counter[Size] = Counter()
    for file in files:
        try:
            opened = open_image(source.read(file.name), 3)
        except (OSError, ValueError, SyntaxError):
            continue
        sizes[(opened.height, opened.width)] += 1
    if not sizes:
        raise DataError(f"no training image of {source.path} can be decoded; give other data with --data")
    return sizes


def most_frequent(sizes: Counter[Size]) -> Size:
    """The size of most images, of equals the largest."""
    return max(sizes, key=lambda size: (sizes[size], size))
