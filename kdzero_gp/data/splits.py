"""Makes the three splits out of what a source holds: training images, and test images if it has some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kdzero_gp.data.account import PARTS, DataAccount, counts
from kdzero_gp.data.dataset import (
    SPLIT_SEED,
    TEST_SHARE,
    VALIDATION_SHARE,
    Dataset,
    Split,
    Statistics,
    split_off,
    statistics,
    stratified_order,
)
from kdzero_gp.errors import DataError

CONTRAST = 3
"""Grey values; an image whose pixels differ by less shows nothing."""
CONSTANT_SHARE = 0.25
"""From so many images of one colour on, the user is warned."""


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
    published: Statistics | None = None,
    seed: int = SPLIT_SEED,
    validation_count: int | None = None,
    *,
    validation: LazySplit | None = None,
    account: DataAccount | None = None,
) -> Dataset:
    """The data set with the splits that the data have no images of their own for taken out of ``training``.

    ``published`` are statistics; without them they are computed from the training split. ``account`` is completed with
    the numbers of images and where each split comes from. Raises DataError when there are too few images.
    """
    account = account or DataAccount()
    if len(training.labels) < 3 or (test is not None and len(test.labels) == 0):
        raise DataError(
            f"The data hold {len(training.labels)} training images and training, validation and test need "
            "one each at least; give a larger data set with --data."
        )
    origins = {"train": "the training images", **account.origins}
    notes = list(account.notes)
    if test is None:
        chosen, rest = split_off(training.labels, _share(len(training.labels), TEST_SHARE), seed)
        # Sorted, so that the order of what remains depends on the files only.
        test, training = training.select(np.sort(chosen)), training.select(np.sort(rest))
        origins["test"] = f"{origins['train']} (split off, {TEST_SHARE:.0%}, since there is no labelled test part)"
    if validation is None:
        validation_count = validation_count or _share(len(training.labels), VALIDATION_SHARE)
        validation_order, train_order = split_off(training.labels, validation_count, seed)
        validation, order = training, validation_order
        origins["validation"] = f"{origins['train']} (split off)"
    else:
        train_order, order = stratified_order(training.labels, seed), stratified_order(validation.labels, seed)
    train = training.split(train_order)
    mean, std = published or statistics(train.images.numpy())
    splits = (train, validation.split(order), test.split(stratified_order(test.labels, seed)))
    flat = _without_contrast(train.images)
    if flat >= CONSTANT_SHARE * len(train):
        notes.append(f"{flat} of {len(train)} training images are of one colour; check that they were decoded well")
    images = {part: counts(split.labels.numpy(), len(classes)) for part, split in zip(PARTS, splits, strict=True)}
    account = replace(account, classes=tuple(classes), images=images, origins=origins, notes=tuple(notes))
    return Dataset(name, tuple(classes), *splits, mean, std, account)


def _without_contrast(images: torch.Tensor) -> int:
    """How many images NxCxHxW have no two values further apart than ``CONTRAST``."""
    flat = images.flatten(2)
    return int((flat.amax(2).int() - flat.amin(2).int() < CONTRAST).all(1).sum())
