"""The user's own data as a data set: in memory, split, with an account of what was done to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdzero_gp.data.account import PARTS, DataAccount, counts
from kdzero_gp.data.dataset import (
    MAXIMUM,
    SPLIT_SEED,
    TEST_SHARE,
    VALIDATION_SHARE,
    Dataset,
    Split,
    Statistics,
    split_off,
    stratified_order,
)
from kdzero_gp.data.inputs import Inputs, NamedInputs, is_image, joined, real, shape_text, tensors_of, wrapped
from kdzero_gp.data.samples import Redraw, Samples, read
from kdzero_gp.errors import DataError

DRAWS = 4
"""So many draws of every training sample are kept for proxies where a transform draws at random."""
ONE_HOT = 1e-6
"""Shares of classes that differ less from 0 and 1 are one-hot."""


@dataclass(frozen=True)
class LiveInputs:
    """Training samples that are drawn anew whenever they are read: those of ``indices``, in their order."""

    redraw: Redraw
    indices: np.ndarray

    def draw(self, places: Sequence[int] | Tensor, seed: int) -> Inputs:
        """A batch of the samples at these places; what is drawn follows from the seed."""
        drawn = [wrapped(self.redraw(int(self.indices[int(place)]), seed)) for place in places]
        if isinstance(drawn[0], NamedInputs):
            fields = {name: torch.stack([one.fields[name] for one in drawn]) for name in drawn[0].fields}
            return NamedInputs(fields)
        return torch.stack(drawn)


@dataclass(frozen=True, eq=False)
class OwnDataset(Dataset):
    """The user's own data: inputs as the user's networks take them, so nothing is normalised. ``draws`` are further
    draws of the training inputs, and ``live`` draws them anew, where a transform is random."""

    draws: tuple[Inputs, ...] = ()
    live: LiveInputs | None = None

    @property
    def own_statistics(self) -> Statistics:
        """Of images of bytes, those of the scale [0, 1]; of others nothing is known."""
        inputs = self.train.images
        in_bytes = is_image(inputs) and inputs.dtype == torch.uint8
        return Statistics((0.0,), (1.0,)) if in_bytes else Statistics((), ())

    def normalise(self, images: Inputs) -> Inputs:
        """Real numbers as float32, images of bytes on the scale [0, 1], whole numbers as they are."""
        if isinstance(images, NamedInputs):
            return NamedInputs({name: self.normalise(tensor) for name, tensor in images.fields.items()})
        if images.dtype == torch.uint8 and images.dim() == 4:
            images = images.float().div_(MAXIMUM)
        if self.given is None:
            return real(images)
        mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in self.given)
        return (real(images) - mean) / std

    def with_channels(self, channels: int) -> OwnDataset:
        """As they are."""
        return self


def own_dataset(
    train: Any,
    validation: Any = None,
    test: Any = None,
    classes: int | Sequence[str] | None = None,
    labels: bool = True,
) -> OwnDataset:
    """The user's data with the splits that are not given taken out of ``train``, stratified by class.

    ``classes``: their number or names, where the labels do not show them; ``labels``: whether a target is the number of
    a class. Raises DataError.
    """
    given = {"train": read(train, "train")}
    given |= {name: read(s, name) for name, s in (("validation", validation), ("test", test)) if s is not None}
    notes: list[str] = []
    for name, samples in given.items():
        notes += samples.notes
        samples.targets = _labels(samples.targets, name, notes) if labels else samples.targets
    _must_be_alike(given)
    names = _class_names(given, classes) if labels else _numbered(classes, given)
    return _assembled(given, names, notes, labels)


def _labels(targets: Tensor, part: str, notes: list[str]) -> Tensor:
    """Targets as labels N (int64): also from N×1 and one-hot rows. Raises DataError."""
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.dim() == 2:
        shares = targets.float()
        highest = shares.max(dim=1)
        others = shares.sum(dim=1) - highest.values
        if (highest.values - 1).abs().max() > ONE_HOT or others.abs().max() > ONE_HOT:
            raise DataError(
                f"the {part} targets have {targets.shape[1]} columns that are not one-hot; give the number of the class"
            )
        notes.append(f"{part}: one-hot targets of {targets.shape[1]} columns are read as the numbers of their classes")
        return highest.indices
    if targets.dim() != 1:
        raise DataError(f"the {part} targets have shape {tuple(targets.shape)}; labels are one number for each sample")
    whole = targets.long()
    if targets.is_floating_point() and not torch.equal(whole.to(targets.dtype), targets):
        raise DataError(f"the {part} targets are not whole numbers; classes are numbered 0, 1, 2, …")
    if len(whole) and int(whole.min()) < 0:
        raise DataError(f"the {part} targets hold {int(whole.min())}; classes are numbered from 0")
    return whole


def _must_be_alike(given: dict[str, Samples]) -> None:
    """Raises DataError where the parts have inputs of different form."""
    first = [(name, tensor.shape[1:], tensor.dtype) for name, tensor in tensors_of(given["train"].inputs)]
    for part, samples in given.items():
        if [(name, tensor.shape[1:], tensor.dtype) for name, tensor in tensors_of(samples.inputs)] != first:
            raise DataError(
                f"the {part} inputs are {shape_text(samples.inputs)} and the training inputs "
                f"{shape_text(given['train'].inputs)}, or of another type; give all in one form"
            )


def _class_names(given: dict[str, Samples], classes: int | Sequence[str] | None) -> tuple[str, ...]:
    count = 1 + max(int(samples.targets.max()) for samples in given.values())
    names = _numbered(classes, given) if classes is not None else given["train"].classes
    if classes is None and len(names) < count:
        names = tuple(map(str, range(max(2, count))))
    if len(names) < count:
        raise DataError(
            f"there are {len(names)} classes and a label of {count - 1}; the last class is number {len(names) - 1}"
        )
    return names


def _numbered(classes: int | Sequence[str] | None, given: dict[str, Samples]) -> tuple[str, ...]:
    if classes is None:
        names = given["train"].classes
        if not names:
            raise DataError("the number of classes does not follow from targets of this kind; give it with classes=")
        return names
    return tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(map(str, classes))


def _assembled(given: dict[str, Samples], names: tuple[str, ...], notes: list[str], labels: bool) -> OwnDataset:
    train = given["train"]
    places = np.arange(len(train.targets))
    strata = train.targets.numpy() if labels else np.zeros(len(places), dtype=np.int64)
    if len(places) < 3:
        raise DataError(f"there are {len(places)} training samples; three are needed at least")
    splits: dict[str, Split] = {}
    origins = dict.fromkeys(given, "your data")
    for part, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if part in given:
            own = given[part].targets
            order = stratified_order(own.numpy() if labels else np.zeros(len(own), dtype=np.int64), SPLIT_SEED)
            splits[part] = _taken(given[part].inputs, own, order)
            if given[part].again is not None:
                notes.append(f"{part}: its transform draws at random; one draw of each sample is kept")
            continue
        chosen, rest = split_off(strata[places], max(1, round(len(places) * share)), SPLIT_SEED)
        splits[part] = _taken(train.inputs, train.targets, places[chosen])
        places = places[np.sort(rest)]
        origins[part] = f"your training data (split off, {share:.0%})"
    places = places[stratified_order(strata[places], SPLIT_SEED)]
    splits["train"] = _taken(train.inputs, train.targets, places)
    draws, live = _draws(train, places, notes, splits, given)
    if any(tensor.dtype == torch.uint8 and tensor.dim() == 4 for _, tensor in tensors_of(train.inputs)):
        notes.append("images of bytes are divided by 255; nothing else is done to them")
    found = {part: splits[part] for part in PARTS}
    images = {p: counts(s.labels.numpy(), len(names)) if labels else (len(s),) for p, s in found.items()}
    content = _content(names, found, draws, _hashed(given, notes))
    account = DataAccount(
        names, images, origins, {}, tuple(notes), content, "images" if is_image(train.inputs) else "samples"
    )
    return OwnDataset(
        "own", names, splits["train"], splits["validation"], splits["test"], (), (), account, draws, live
    )  # fmt: skip


def _draws(
    train: Samples, places: np.ndarray, notes: list[str], splits: dict[str, Split], given: dict[str, Samples]
) -> tuple[tuple[Inputs, ...], LiveInputs | None]:
    """Further draws of the training inputs, and what draws them anew, where a transform is random."""
    if train.again is None:
        return (), None
    live = LiveInputs(train.again, places)
    draws = tuple(live.draw(range(len(places)), seed) for seed in range(1, DRAWS))
    notes.append(
        f"the transform of the training data draws at random: proxies use {DRAWS} kept draws of each sample; distill "
        "and compare draw anew in every epoch and ask the teacher about every batch"
    )
    lacking = [part for part in ("validation", "test") if part not in given]
    if lacking:
        notes.append(
            f"{' and '.join(lacking)} samples are split off the training data and have its random transform; give data "
            "without it for better measurements"
        )
    return draws, live


def _taken(inputs: Inputs, targets: Tensor, order: np.ndarray) -> Split:
    places = torch.from_numpy(np.ascontiguousarray(order))
    return Split(inputs[places], targets[places])


def _hashed(given: dict[str, Samples], notes: list[str]) -> list[str]:
    """The parts whose inputs are the same whenever they are read."""
    varying = {part for part, samples in given.items() if not samples.repeatable}
    if varying:
        notes.append(
            f"{' and '.join(varying)}: what is drawn at random does not follow from the seeds of Python, numpy and "
            "torch, so that trainings cannot be repeated to the last digit"
        )
    return [part for part in PARTS if (part if part in given else "train") not in varying]


def _content(names: tuple[str, ...], splits: dict[str, Split], draws: Sequence[Inputs], hashed: Sequence[str]) -> str:
    """A digest of the targets, and of the inputs of the parts in ``hashed``."""
    digest = hashlib.sha256("\0".join(names).encode())
    everything = [splits[part].images for part in hashed] + [*(draws if "train" in hashed else ())]
    tensors = [t for inputs in everything for _, t in tensors_of(inputs)] + [s.labels for s in splits.values()]
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def without_validation(dataset: Dataset) -> Dataset:
    """The data set whose validation samples are trained on, too. Raises DataError where they cannot be."""
    if isinstance(dataset, OwnDataset) and dataset.live is not None:
        raise DataError("data with a random transform need their validation samples; add them to train yourself")
    both = (dataset.train, dataset.validation)
    train = Split(joined([s.images for s in both]), torch.cat([s.labels for s in both]))
    return replace(dataset, train=train, validation=Split(train.images[:0], train.labels[:0]))


def with_classes(dataset: OwnDataset, count: int) -> OwnDataset:
    """The data set with more classes than its labels show, as the networks have them."""
    names = (*dataset.classes, *map(str, range(len(dataset.classes), count)))
    more = (0,) * (count - len(dataset.classes))
    images = {part: (*numbers, *more) for part, numbers in dataset.account.images.items()}
    note = f"the labels show {len(dataset.classes)} classes and the teacher has {count}; it is taken to know more"
    account = replace(dataset.account, classes=names, images=images, notes=(*dataset.account.notes, note),
                      content=f"{dataset.account.content} {count}")  # fmt: skip
    return replace(dataset, classes=names, account=account)
