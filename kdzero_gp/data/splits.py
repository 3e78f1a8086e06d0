"""Makes the three splits out of what a source holds: training images, and test images if it has some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from kdzero_gp.data.dataset import (
    SPLIT_SEED,
    TEST_SHARE,
    VALIDATION_SHARE,
    Dataset,
    Split,
    split_off,
    statistics,
    stratified_order,
)
from kdzero_gp.errors import DataError


class Statistics(NamedTuple):
    """Mean and deviation of each channel, on the scale [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class LazySplit:
    """Labelled images of which any selection can be had as an array NxCxHxW (uint8)."""

    labels: np.ndarray
    take: Callable[[np.ndarray], np.ndarray]

    def select(self, indices: np.ndarray) -> "LazySplit":
        """The part with these images only."""
        return LazySplit(self.labels[indices], lambda chosen: self.take(indices[chosen]))

    def split(self, order: np.ndarray) -> Split:
        """The images in this order, loaded."""
        images = np.ascontiguousarray(self.take(order), dtype=np.uint8)
        return Split(torch.from_numpy(images), torch.from_numpy(self.labels[order].astype(np.int64)))


def _share(count: int, share: float) -> int:
    return max(1, round(count * share))


def assemble(
    name: str,
    classes: Sequence[str],
    training: LazySplit,
    test: LazySplit | None,
    known: Statistics | None = None,
    seed: int = SPLIT_SEED,
    validation_count: int | None = None,
) -> Dataset:
    """The data set with its validation split taken out of ``training``, and its test split too if there is
    none.

    ``known`` are published statistics; without them they are computed from the training split. Raises
    DataError when there are too few images.
    """
    if len(training.labels) < 3 or (test is not None and len(test.labels) == 0):
        raise DataError(
            f"The data hold {len(training.labels)} training images and training, validation and test need "
            "one each at least; give a larger data set with --data."
        )
    if test is None:
        chosen, rest = split_off(training.labels, _share(len(training.labels), TEST_SHARE), seed)
        # Sorted, so that the order of what remains depends on the files only.
        test, training = training.select(np.sort(chosen)), training.select(np.sort(rest))
    if validation_count is None:
        validation_count = _share(len(training.labels), VALIDATION_SHARE)
    validation_order, train_order = split_off(training.labels, validation_count, seed)
    train = training.split(train_order)
    mean, std = known or statistics(train.images.numpy())
    return Dataset(
        name,
        tuple(classes),
        train,
        training.split(validation_order),
        test.split(stratified_order(test.labels, seed)),
        mean,
        std,
    )
