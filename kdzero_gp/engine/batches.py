"""The images of a training: resident on the device where they fit, read one by one where a recipe needs that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdzero_gp import data as tasks
from kdzero_gp.data.dataset import SPLIT_SEED, TEST_SHARE, VALIDATION_SHARE, Dataset, Split, split_off
from kdzero_gp.engine.augmentation import cropped
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import DataError
from kdzero_gp.training.pair import resized

# Images in one batch of an evaluation.
EVALUATION_BATCH = 500
# Mean and deviation of ImageNet's training images, as torchvision's and timm's networks were trained with.
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Apart from every epoch's number: the order of images in trainings that only prepare something.
_PRIME = 1_000_003


def random_state(seed: int, epoch: int) -> int:
    """The seed of everything random in one epoch, so that an epoch can be repeated without those before it."""
    return (seed * _PRIME + epoch + 1) % (1 << 62)


@dataclass
class Batch:
    """Normalised images NxCxHxW and labels N on the device; ``indices`` N and ``flipped`` N say which they are."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    flipped: Tensor


class Images:
    """What a training needs of a task's images. ``train``, ``validation`` and ``test`` are the numbers of images."""

    classes: int
    train: int
    validation: int
    test: int
    dataset: Dataset
    example: Tensor

    def __init__(self, recipe: Recipe, device: torch.device, memory_format: torch.memory_format):
        self.recipe = recipe
        self.device = device
        self.memory_format = memory_format

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; equal seeds and epochs give equal batches."""
        raise NotImplementedError

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of a part as they are, with labels, in batches."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int:
        """The recipe's, or all images where there are fewer; even where images are mixed in pairs."""
        size = min(self.recipe.batch_size, self.train)
        return size - size % 2 if self.recipe.mixes else size

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.train // self.batch_size

    def normalised(self, images: Tensor) -> Tensor:
        """Images uint8 as the networks take them."""
        return self.dataset.normalise(images.to(self.device, non_blocking=True)).to(memory_format=self.memory_format)

    def _order(self, generator: torch.Generator) -> Tensor:
        order = torch.randperm(self.train, generator=generator)[: self.steps * self.batch_size]
        return order.view(self.steps, self.batch_size)


class Resident(Images):
    """All images as uint8 on the device; crops and flips are one gather for each batch."""

    def __init__(self, dataset: Dataset, recipe: Recipe, device: torch.device, memory_format: torch.memory_format):
        super().__init__(recipe, device, memory_format)
        self.dataset = dataset
        self.classes = len(dataset.classes)
        self.train, self.validation, self.test = (len(s) for s in (dataset.train, dataset.validation, dataset.test))
        self.images, self.labels = dataset.train.images.to(device), dataset.train.labels.to(device)
        self.example = self._seen(dataset.train.images[:2])

    def _seen(self, images: Tensor) -> Tensor:
        return resized(self.normalised(images), self.recipe.image_size).contiguous(memory_format=self.memory_format)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(random_state(seed, epoch))
        order = self._order(generator).to(self.device)
        padding = self.recipe.padding if self.recipe.crop == "pad" else 0
        offsets = torch.randint(2 * padding + 1, (*order.shape, 2), generator=generator).to(self.device)
        flips = (torch.rand(order.shape, generator=generator) < (0.5 if self.recipe.flip else 0.0)).to(self.device)
        for indices, offset, flipped in zip(order, offsets, flips, strict=True):
            images = cropped(self.images[indices], padding, offset, flipped)
            yield Batch(self._seen(images), self.labels[indices], indices, flipped)

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        split: Split = getattr(self.dataset, part)
        for start in range(0, len(split), EVALUATION_BATCH):
            window = slice(start, start + EVALUATION_BATCH)
            yield self._seen(split.images[window]), split.labels[window].to(self.device)


@dataclass(frozen=True)
class Files:
    """The images of one part that are opened when they are needed."""

    open: Callable[[int], object]
    labels: np.ndarray


class Single(Images):
    """Images transformed one by one with Pillow (random resized crops, policies of timm), in reader processes."""

    def __init__(
        self,
        parts: dict[str, Files],
        dataset: Dataset,
        recipe: Recipe,
        device: torch.device,
        memory_format: torch.memory_format,
        readers: int,
    ):
        super().__init__(recipe, device, memory_format)
        self.parts, self.dataset, self.readers = parts, dataset, readers
        self.classes = len(dataset.classes)
        self.train, self.validation, self.test = (len(parts[n].labels) for n in ("train", "validation", "test"))
        self.example = next(self._batches("train", torch.arange(2).view(1, 2), None)).images

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        state = random_state(seed, epoch)
        order = self._order(torch.Generator().manual_seed(state))
        return self._batches("train", order, state)

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.parts[part].labels)
        batches = list(torch.arange(count).split(min(EVALUATION_BATCH, self.recipe.batch_size))) if count else []
        return ((batch.images, batch.labels) for batch in self._batches(part, batches, None))

    def _batches(self, part: str, order: Tensor | list[Tensor], state: int | None) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        from kdzero_gp.engine.single import SingleImages

        if not len(order):
            return
        files = self.parts[part]
        images = SingleImages(files.open, self.dataset.train.images.shape[1], self.recipe, state)
        loader = DataLoader(
            images, batch_sampler=[o.tolist() for o in order], num_workers=self.readers,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        labels = torch.from_numpy(files.labels)
        for indices, raw in zip(order, loader, strict=True):
            unknown = torch.zeros(len(indices), dtype=torch.bool, device=self.device)
            yield Batch(self.normalised(raw), labels[indices].to(self.device), indices.to(self.device), unknown)


def open_images(
    task: str,
    data: str | None,
    recipe: Recipe,
    device: torch.device,
    memory_format: torch.memory_format,
    *,
    validate: bool = True,
    readers: int = 0,
) -> Images:
    """The images of a task for one recipe. Without ``validate`` the validation images are trained on too.

    A folder whose recipe crops at random sizes is read image by image and never as a whole. Raises DataError.
    """
    if task == "folder" and recipe.per_image:
        return _from_folder(data, recipe, device, memory_format, validate, readers)
    dataset = tasks.load(task, data)
    if not validate:
        dataset = _without_validation(dataset)
    if not recipe.per_image:
        return Resident(dataset, recipe, device, memory_format)
    recipe = recipe if recipe.image_size else replace(recipe, image_size=dataset.train.images.shape[-1])
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    parts = {name: Files(_Decoded(split.images), split.labels.numpy()) for name, split in splits.items()}
    return Single(parts, dataset, recipe, device, memory_format, readers)


def _without_validation(dataset: Dataset) -> Dataset:
    both = (dataset.train, dataset.validation)
    train = Split(torch.cat([s.images for s in both]), torch.cat([s.labels for s in both]))
    return replace(dataset, train=train, validation=Split(train.images[:0], train.labels[:0]))


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

    def __call__(self, index: int) -> object:
        from torchvision.datasets.folder import default_loader

        try:
            return default_loader(str(self.root / str(self.names[index])))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"The image {self.names[index]} cannot be decoded ({error}); repair or remove it."
            ) from error


def _from_folder(
    data: str | None,
    recipe: Recipe,
    device: torch.device,
    memory_format: torch.memory_format,
    validate: bool,
    readers: int,
) -> Images:
    """A tree ``{train,val}/<class>/<image>`` of which only the paths are kept."""
    from kdzero_gp.data import images as trees

    if data is None or not Path(data).expanduser().is_dir():
        raise DataError(
            f"images are read one by one from a folder {{train,val}}/<class>/<image> and {data} is none; unpack it "
            "and give the folder with --data"
        )
    if not recipe.image_size:
        raise DataError("images of a folder that are read one by one need a size; add --set image_size=224")
    root = Path(data).expanduser()
    source = trees.Folder(root)
    tree = trees.layout(source.names(), root)
    train, test = tree.train, tree.test
    if test is None:
        test, train = _split(train, TEST_SHARE)
    validation, train = _split(train, VALIDATION_SHARE) if validate else ([], train)
    parts = {"train": train, "validation": validation, "test": test}
    empty = Split(torch.empty(0, 3, recipe.image_size, recipe.image_size, dtype=torch.uint8), torch.empty(0).long())
    facts = Dataset(root.name, tree.classes, empty, empty, empty, *IMAGENET_STATISTICS)
    files = {name: _unread(root, labelled) for name, labelled in parts.items()}
    return Single(files, facts, recipe, device, memory_format, readers)


def _split(labelled: list[tuple[str, int]], share: float) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """A stratified share of labelled paths, and the rest."""
    count = max(1, math.floor(len(labelled) * share + 0.5))
    chosen, rest = split_off(np.array([label for _, label in labelled]), count, SPLIT_SEED)
    return [labelled[index] for index in chosen], [labelled[index] for index in rest]


def _unread(root: Path, labelled: list[tuple[str, int]]) -> Files:
    names = np.array([name for name, _ in labelled], dtype=np.str_)
    return Files(_Unread(root, names), np.array([label for _, label in labelled], dtype=np.int64))
