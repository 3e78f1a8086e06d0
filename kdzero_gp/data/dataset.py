"""Images with labels, and how they are split: what every task's data look like once loaded."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdzero_gp.data.account import PARTS, DataAccount
from kdzero_gp.data.memory import must_fit
from kdzero_gp.data.resizing import Size, resized, size_text
from kdzero_gp.errors import DataError

SPLIT_SEED = 0
"""Seed of the order that splits data; a fixed one, so that every machine has the same splits."""
VALIDATION_SHARE = 0.1
"""Share of the training data that becomes the validation split."""
TEST_SHARE = 0.2
"""Share of the training data that becomes the test split where the data have none of their own."""

RGB = 3
"""Channels of colour images."""
MAXIMUM = 255.0
"""The largest value of an 8-bit image."""
STATISTICS_BYTES = 1 << 26
"""So many bytes of float64 are summed at a time when mean and deviation are computed, to bound the memory."""


class Statistics(NamedTuple):
    """Mean and deviation of each channel, on the scale [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """Images NxCxHxW (uint8) with their labels N (int64). Every prefix is balanced over the classes."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three splits of one task, with the names of its classes and the statistics that normalise its
    images.

    ``validation`` comes out of the training data; ``test`` shares no image entry with the other two. ``given``: what
    images are normalised by in place of their own ``mean`` and ``std``.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    account: DataAccount = field(default_factory=DataAccount)
    given: Statistics | None = field(default=None, kw_only=True)

    @property
    def statistics(self) -> Statistics:
        """What the images are normalised by."""
        return self.given or self.own_statistics

    @property
    def own_statistics(self) -> Statistics:
        """Mean and deviation of the images themselves."""
        return Statistics(self.mean, self.std)

    @property
    def usual_statistics(self) -> Statistics:
        """What normalises the images for a teacher of which nothing is known: as if nothing were ``given``."""
        own = self.own_statistics
        return own if own.mean or self.given is None else Statistics((0.0,), (1.0,))

    def with_channels(self, channels: int) -> "Dataset":
        """Grey images as colour ones, without copying them. Raises DataError for any other change of channels."""
        current = len(self.mean)
        if channels == current:
            return self
        if current != 1:
            raise DataError(f"the images of {self.name} have {current} channels and cannot be given {channels}")
        splits = {
            name: replace(split, images=split.images.expand(-1, channels, -1, -1))
            for name, split in (("train", self.train), ("validation", self.validation), ("test", self.test))
        }
        note = f"grey images are given to networks as {'RGB' if channels == RGB else f'{channels} equal channels'}"
        account = replace(self.account, notes=(*self.account.notes, note))
        return replace(self, **splits, mean=self.mean * channels, std=self.std * channels, account=account)  # type: ignore[arg-type]

    def resized(self, size: Size) -> "Dataset":
        """All images at this height and width. Raises DataError where they would not fit into memory."""
        if size == tuple(self.train.images.shape[2:]):
            return self
        if self.train.labels.dim() > 1:
            raise DataError("label maps keep their size; leave out --image-size, or cut windows with --crop")
        splits = {part: getattr(self, part) for part in PARTS}
        count, needed = sum(map(len, splits.values())), size[0] * size[1] * len(self.mean)
        must_fit(count * needed, f"{count:,} images of {size_text(size)} pixels", "set a smaller --image-size")
        step = max(1, STATISTICS_BYTES // (4 * needed))
        changed = {
            part: replace(
                split,
                images=torch.cat([
                    resized(images.float(), size).round_().clamp_(0, MAXIMUM).byte()
                    for images in split.images.split(step)
                ]),
            )
            for part, split in splits.items()
        }  # fmt: skip
        return replace(self, **changed)

    def normalise(self, images: Tensor) -> Tensor:
        """Float images from uint8 ones, NxCxHxW: scaled to [0, 1], minus mean, over deviation."""
        shape = (-1, 1, 1)
        mean, std = (torch.tensor(values, device=images.device).view(shape) for values in self.statistics)
        return images.to(torch.float32).div_(MAXIMUM).sub_(mean).div_(std)


def stratified_order(labels: Sequence[int] | np.ndarray, seed: int) -> np.ndarray:
    """A random order of N samples in which every prefix has each class in its share, to within one sample.

    So any prefix is a stratified sample and the rest is one too. Depends on the labels and the seed alone:
    Python promises the same ``random()`` numbers for a seed on every machine and version.
    """
    generator = random.Random(seed)
    draws = np.array([generator.random() for _ in range(len(labels))])
    labels = np.asarray(labels)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(draws[members], kind="stable")]
        # The k-th of n samples of a class stands near (k + 1/2) / n of the whole.
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((draws, position))


def split_off(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of ``count`` samples, stratified by class, and of the rest; both in stratified order."""
    order = stratified_order(labels, seed)
    return order[:count], order[count:]


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of uint8 images NxCxHxW, on the scale [0, 1]."""
    channels = images.shape[1]
    total, squares = np.zeros(channels), np.zeros(channels)
    step = max(1, STATISTICS_BYTES // (8 * max(1, images[:1].size)))
    for start in range(0, len(images), step):
        chunk = images[start : start + step].astype(np.float64) / MAXIMUM
        total += chunk.sum((0, 2, 3))
        squares += np.square(chunk).sum((0, 2, 3))
    count = images.size / channels
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    # A channel without contrast has nothing to scale.
    std = np.where(std > 1.0 / MAXIMUM, std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
