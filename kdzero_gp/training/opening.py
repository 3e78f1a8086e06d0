"""Opens a task's data for a training: all images at once, or one by one where the recipe needs that."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdzero_gp import tasks
from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.dataset import SPLIT_SEED, TEST_SHARE, VALIDATION_SHARE, Dataset, Split, split_off
from kdzero_gp.data.decoding import open_image, survey
from kdzero_gp.data.images import Folder
from kdzero_gp.data.inputs import channels, is_image
from kdzero_gp.data.layouts import layout
from kdzero_gp.data.own import OwnDataset, without_validation
from kdzero_gp.engine.batches import Batches, Files, Redrawn, Resident, Streamed
from kdzero_gp.engine.networks import expected_input, for_student, network_channels, taught
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import DataError
from kdzero_gp.families import TaskFamily
from kdzero_gp.models.normalisation import IMAGENET, IMAGENET_GREY
from kdzero_gp.training.settings import Settings

# What is done to a data set when it is opened.
Change = Callable[[Dataset], Dataset]
# Of images that are read one by one, so many are opened beforehand to see whether they are grey.
LOOKED_AT = 200


def open_batches(
    task: str,
    data: str | None,
    recipe: Recipe,
    device: torch.device,
    *,
    validate: bool = True,
    readers: int = 0,
    channels: int | None = None,
    change: Change = lambda dataset: dataset,
) -> Batches:
    """The images of a task for one recipe, with so many ``channels`` (None: as the data have them). Without
    ``validate`` the validation images are trained on too. ``change`` is done to the data set before.

    A folder whose recipe crops at random sizes is read image by image and never as a whole. Raises DataError.
    """
    if task == "folder" and recipe.per_image:
        return _from_folder(data, recipe, device, validate, readers, channels, change)
    declared = tasks.get(task)
    dataset = change(declared.open(data, recipe.size, channels))
    if not validate:
        dataset = without_validation(dataset)
    if dataset.train.labels.dim() > 1:
        _must_move_labels(recipe, declared.decodes)
    if isinstance(dataset, OwnDataset):
        return _own(dataset, declared.family, recipe, device, readers)
    if not recipe.per_image:
        return Resident(dataset, declared.family, recipe, device)
    if not recipe.image_size:
        height, width = dataset.train.images.shape[2:]
        recipe = replace(recipe, image_size=height, image_width=width)
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    parts = {name: Files(_Decoded(split.images), split.labels.numpy()) for name, split in splits.items()}
    return Streamed(parts, dataset, recipe, device, readers)


def _must_move_labels(recipe: Recipe, sized: bool) -> None:
    """Raises DataError for a recipe that changes images in a way that label maps and boxes do not follow. ``sized``:
    they were read at the recipe's size."""
    changing = (*(() if sized else ("image_size",)), "teacher_image_size", "augment", "mixup", "cutmix")
    asked = [name for name in changing if getattr(recipe, name)] + ["crop"] * (recipe.crop == "resized")
    if asked:
        raise DataError(
            f"label maps and boxes do not follow the recipe's {asked[0]}; leave it out, or cut windows with "
            "crop = window and crop_size"
        )


def open_for(settings: Settings, device: torch.device, readers: int = 0, *, validate: bool | None = None) -> Batches:
    """The images of a training; grey ones as RGB where its student needs that. Raises KdzeroError."""
    validate = settings.validate if validate is None else validate

    def normalised(dataset: Dataset) -> Dataset:
        return for_student(dataset, settings.statistics("student"), settings.student, settings.student_weights)

    def opened(wanted: int | None) -> Batches:
        return open_batches(
            settings.task, settings.data, settings.recipe, device, validate=validate, readers=readers, channels=wanted,
            change=normalised,
        )  # fmt: skip

    batches = opened(settings.channels)
    given = channels(batches.example)
    if settings.channels is not None or given != 1:
        return batches
    family = tasks.get(settings.task).family
    needed = network_channels(family, settings.student, batches.classes, given)
    return batches if needed == given else opened(needed)


def open_teacher(settings: Settings, batches: Batches) -> Any:
    """The teacher of a training with new weights, tapped, which sees what its own weights were trained on. Raises
    ModelError."""
    known = expected_input(settings.teacher, settings.teacher_weights, batches.classes)
    return taught(
        tasks.get(settings.task).family, settings.teacher, batches.contract, known, batches.example,
        settings.teacher_taps, settings.recipe.teacher_image_size, settings.statistics("teacher"),
        batches.dataset.usual_statistics,
    )  # fmt: skip


def _own(dataset: OwnDataset, family: TaskFamily, recipe: Recipe, device: torch.device, readers: int) -> Batches:
    """The user's own data. Raises DataError for a recipe that changes them in a way that they cannot be changed."""
    if recipe.per_image:
        raise DataError(
            f"the recipe has {'augment' if recipe.augment else 'crop'}, which takes files of images; put it into the "
            "transform of your data set"
        )
    changing = ("image_size", "teacher_image_size", "flip", "mixup", "cutmix", "crop")
    asked = [name for name in changing if getattr(recipe, name) not in (0, False, "none")]
    if asked and not is_image(dataset.train.images):
        raise DataError(
            f"the recipe has {asked[0]}, which is for images N×C×H×W, and the inputs are none; leave it out"
        )
    if dataset.live is None:
        return Resident(dataset, family, recipe, device)
    drawn = [name for name in ("crop", "flip") if name in asked]
    if drawn:
        raise DataError(f"the recipe has {drawn[0]} and your data have a random transform; leave one of them out")
    return Redrawn(dataset, family, recipe, device, readers)


@dataclass(frozen=True)
class _Decoded:
    """Opens images that are in memory. An object, no closure, so that reader processes can be given it."""

    images: Tensor

    def __call__(self, index: int) -> object:
        from PIL import Image

        pixels = self.images[index].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


@dataclass(frozen=True)
class _Unread:
    """Opens images of a folder; ``names`` is an array, since lists would be copied into every reader process."""

    root: Path
    names: np.ndarray
    channels: int

    def __call__(self, index: int) -> object:
        try:
            return open_image(self.root / str(self.names[index]), self.channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"The image {self.names[index]} cannot be decoded ({error}); repair or remove it."
            ) from error


def _from_folder(
    data: str | None,
    recipe: Recipe,
    device: torch.device,
    validate: bool,
    readers: int,
    channels: int | None,
    change: Change,
) -> Batches:
    """A tree ``{train,val}/<class>/<image>`` of which only the paths are kept."""
    if data is None or not Path(data).expanduser().is_dir():
        raise DataError(
            f"images are read one by one from a folder {{train,val}}/<class>/<image> and {data} is none; unpack it "
            "and give the folder with --data"
        )
    if not recipe.image_size:
        raise DataError("images of a folder that are read one by one need a size; add --image-size 224")
    if channels not in (None, 1, 3):
        raise DataError(f"images of a folder have 1 or 3 channels, got {channels}; leave --channels out")
    root = Path(data).expanduser()
    source = Folder(root)
    tree = layout(source)
    train, validation, test = tree.train, tree.validation, tree.test
    origins = dict(tree.origins)
    if test is None:
        test, train = _split(train, TEST_SHARE)
        origins["test"] = f"a share of {TEST_SHARE:g} of the training images"
    if validation is None:
        validation, train = _split(train, VALIDATION_SHARE) if validate else ([], train)
        origins["validation"] = f"a share of {VALIDATION_SHARE:g} of the training images"
    elif not validate:
        train, validation = [*train, *validation], []
    parts = {"train": train, "validation": validation, "test": test}
    counts = {
        part: tuple(np.bincount([label for _, label in images], minlength=len(tree.classes)).tolist())
        for part, images in parts.items()
    }
    notes = [*tree.notes, *_looks_grey(root, train, channels)]
    content = _content(source, parts)
    account = DataAccount(tree.classes, counts, origins, dict(tree.skipped), tuple(notes), content)
    channels = channels or 3
    empty = Split(torch.empty(0, channels, *(recipe.size or (0, 0)), dtype=torch.uint8), torch.empty(0).long())
    usual = IMAGENET if channels == 3 else IMAGENET_GREY
    dataset = change(Dataset(root.name, tree.classes, empty, empty, empty, *usual, account))
    files = {name: _unread(root, labelled, channels) for name, labelled in parts.items()}
    return Streamed(files, dataset, recipe, device, readers)


def _split(labelled: list[tuple[str, int]], share: float) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """A stratified share of labelled paths, and the rest."""
    count = max(1, math.floor(len(labelled) * share + 0.5))
    chosen, rest = split_off(np.array([label for _, label in labelled]), count, SPLIT_SEED)
    return [labelled[index] for index in chosen], [labelled[index] for index in rest]


def _looks_grey(root: Path, train: list[tuple[str, int]], channels: int | None) -> list[str]:
    """A note where some of the images, too many to open all, are all grey."""
    some = [name for name, _ in train[:: max(1, len(train) // LOOKED_AT)]]
    if channels is not None or survey(Folder(root), some, (1, 1)).channels == 3:
        return []
    return [f"the images look grey ({len(some)} were opened) and are read as RGB; --channels 1 reads them as grey"]


def _content(source: Folder, parts: dict[str, list[tuple[str, int]]]) -> str:
    """A digest of names, labels and sizes of files: their content is too much to be read beforehand."""
    sizes = {stamp.path: stamp.size for stamp in source.stamps}
    labelled = {part: [(name, label, sizes.get(name)) for name, label in files] for part, files in parts.items()}
    return hashlib.sha256(json.dumps(labelled, sort_keys=True).encode()).hexdigest()[:16]


def _unread(root: Path, labelled: list[tuple[str, int]], channels: int) -> Files:
    names = np.array([name for name, _ in labelled], dtype=np.str_)
    return Files(_Unread(root, names, channels), np.array([label for _, label in labelled], dtype=np.int64))
