"""The batches of a training: resident on the device where the data fit, read one by one where a recipe needs that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.augmentation import cropped
from kdzero_gp.data.dataset import Dataset, Split
from kdzero_gp.engine.outputs import EVALUATION_BATCH, FLOAT32, Precision, TensorSplit, evaluation_batch
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.families import TaskFamily

# Images that a recipe leaves as they are stay normalised on the device when they take at most this many bytes.
READY_BYTES = 1 << 30
# Apart from every epoch's number: the order of images in trainings that only prepare something.
_PRIME = 1_000_003


def random_state(seed: int, epoch: int) -> int:
    """The seed of everything random in one epoch, so that an epoch can be repeated without those before it."""
    return (seed * _PRIME + epoch + 1) % (1 << 62)


def resized(images: Tensor, size: int) -> Tensor:
    """Images N×C×H×W at ``size`` pixels a side (0, or their own size: as they are), bilinear with antialiasing."""
    if size in (0, images.shape[-1]):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


@dataclass
class Batch:
    """Normalised images N×C×H×W and labels N… on the device; ``indices`` N and ``flipped`` N say which they are."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    flipped: Tensor | None = None


class Batches:
    """What a training needs of its data. ``train``, ``validation`` and ``test`` are the numbers of images."""

    classes: int
    train: int
    validation: int = 0
    test: int = 0
    example: Tensor
    account: DataAccount

    def __init__(self, recipe: Recipe, device: torch.device, precision: Precision = FLOAT32):
        self.recipe, self.device, self.precision = recipe, device, precision

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
        """Steps of an epoch; an incomplete last batch is left out."""
        return self.train // self.batch_size

    def _order(self, generator: torch.Generator) -> Tensor:
        order = torch.randperm(self.train, generator=generator)[: self.steps * self.batch_size]
        return order.view(self.steps, self.batch_size)


class Kept(Batches):
    """Images that are ready for the network and on the device: those of proxies and races."""

    def __init__(self, split: TensorSplit, classes: int, recipe: Recipe, device: torch.device, precision: Precision):
        super().__init__(recipe, device, precision)
        self.classes, self.train = classes, len(split.labels)
        self.images, self.labels = split.images, split.labels
        self.example = split.images[:2]

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(random_state(seed, epoch))
        for indices in self._order(generator).to(self.device):
            yield Batch(self.images[indices], self.labels[indices], indices)


class Resident(Batches):
    """All images as uint8 on the device; crops and flips are one gather for each batch."""

    def __init__(self, dataset: Dataset, family: TaskFamily, recipe: Recipe, device: torch.device):
        super().__init__(recipe, device)
        self.dataset, self.family, self.account = dataset, family, dataset.account
        self.classes = len(dataset.classes)
        self.train, self.validation, self.test = (len(s) for s in (dataset.train, dataset.validation, dataset.test))
        self.images, self.labels = dataset.train.images.to(device), dataset.train.labels.to(device)
        self.window = (recipe.crop_size,) * 2 if recipe.crop == "window" else None
        first, still = dataset.train.images[:2], torch.zeros(2, dtype=torch.bool)
        corner = torch.zeros(2, 2, dtype=torch.long)
        self.example = self._seen(cropped(first, 0, corner, still[: len(first)], self.window) if self.window else first)

    def _seen(self, images: Tensor) -> Tensor:
        normal = self.dataset.normalise(images.to(self.device))
        return self.precision.place(resized(normal, self.recipe.image_size), self.device)

    @cached_property
    def ready(self) -> Tensor | None:
        """All images as the network sees them, where the recipe leaves them as they are and memory allows."""
        if self.recipe.crop != "none" or self.recipe.flip:
            return None
        number = self.recipe.image_size**2 * self.images.shape[1] or self.images[0].numel()
        return self._seen(self.images) if 4 * number * self.train <= READY_BYTES else None

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(random_state(seed, epoch))
        order = self._order(generator).to(self.device)
        if self.ready is not None:
            for indices in order:
                yield Batch(self.ready[indices], self.labels[indices], indices)
            return
        padding = self.recipe.padding if self.recipe.crop == "pad" else 0
        offsets = self._offsets(order, padding, generator).to(self.device)
        flips = (torch.rand(order.shape, generator=generator) < (0.5 if self.recipe.flip else 0.0)).to(self.device)
        for indices, offset, flipped in zip(order, offsets, flips, strict=True):
            images, labels = self.family.crop(
                self.images[indices], self.labels[indices], padding, offset, flipped, self.window
            )
            yield Batch(self._seen(images), labels, indices, flipped)

    def _offsets(self, order: Tensor, padding: int, generator: torch.Generator) -> Tensor:
        """Where each image's window begins: row and column."""
        if self.window is None:
            return torch.randint(2 * padding + 1, (*order.shape, 2), generator=generator)
        room = torch.tensor(
            [max(0, have - side) + 1 for have, side in zip(self.images.shape[2:], self.window, strict=True)]
        )
        return (torch.rand((*order.shape, 2), generator=generator) * room).long()

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        split: Split = getattr(self.dataset, part)
        size = evaluation_batch(split.images)
        for start in range(0, len(split), size):
            window = slice(start, start + size)
            yield self._seen(split.images[window]), split.labels[window].to(self.device)


@dataclass(frozen=True)
class Files:
    """The images of one part that are opened when they are needed."""

    open: Callable[[int], object]
    labels: np.ndarray


class Streamed(Batches):
    """Images transformed one by one with Pillow (random resized crops, policies of timm), in reader processes."""

    def __init__(
        self,
        parts: dict[str, Files],
        dataset: Dataset,
        recipe: Recipe,
        device: torch.device,
        readers: int,
    ):
        super().__init__(recipe, device)
        self.parts, self.dataset, self.readers, self.account = parts, dataset, readers, dataset.account
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
            normal = self.dataset.normalise(raw.to(self.device, non_blocking=True))
            seen = self.precision.place(normal, self.device)
            yield Batch(seen, labels[indices].to(self.device), indices.to(self.device))
