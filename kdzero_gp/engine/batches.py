"""The batches of a training: resident on the device where the data fit, read one by one where a recipe needs that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.augmentation import Geometry, corners, cropped
from kdzero_gp.data.dataset import Dataset, Split
from kdzero_gp.data.inputs import Inputs, is_image, plain, wrapped
from kdzero_gp.data.own import LiveInputs, OwnDataset
from kdzero_gp.data.resizing import resized
from kdzero_gp.engine.outputs import EVALUATION_BATCH, FLOAT32, Precision, TensorSplit, evaluation_batch
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.families import TaskFamily
from kdzero_gp.models.contract import InputContract

# Images that a recipe leaves as they are stay normalised on the device when they take at most this many bytes.
READY_BYTES = 1 << 30
# Apart from every epoch's number: the order of images in trainings that only prepare something.
_PRIME = 1_000_003


def random_state(seed: int, epoch: int) -> int:
    """The seed of everything random in one epoch, so that an epoch can be repeated without those before it."""
    return (seed * _PRIME + epoch + 1) % (1 << 62)


def contract_of(dataset: Dataset, example: Inputs) -> InputContract:
    """What a network that is trained on a data set, on inputs like ``example``, expects of them; of what is no image
    only the classes are told."""
    if not is_image(example):
        return InputContract(classes=dataset.classes)
    # with a label for each pixel, images of any size are seen as they are
    size = None if dataset.train.labels.dim() > 1 else (example.shape[-2], example.shape[-1])
    return InputContract(example.shape[1], size, *dataset.statistics, dataset.classes)


@dataclass
class Batch:
    """Inputs (images normalised, N×C×H×W) and labels N… on the device; ``indices`` N, ``flipped`` N and, where the
    recipe keeps draws, ``draw`` N say which they are."""

    images: Inputs
    labels: Tensor
    indices: Tensor
    flipped: Tensor | None = None
    draw: Tensor | None = None

    @property
    def form(self) -> Tensor:
        """Which of the recipe's forms each image has, as ``Batches.form`` numbers them."""
        if self.draw is not None:
            return self.draw
        return torch.zeros_like(self.indices) if self.flipped is None else self.flipped.long()


class Batches:
    """What a training needs of its data. ``train``, ``validation`` and ``test`` are the numbers of images."""

    classes: int
    train: int
    validation: int = 0
    test: int = 0
    example: Inputs
    account: DataAccount
    contract: InputContract
    dataset: Dataset

    def __init__(self, recipe: Recipe, device: torch.device, precision: Precision = FLOAT32):
        self.recipe, self.device, self.precision = recipe, device, precision

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; equal seeds and epochs give equal batches."""
        raise NotImplementedError

    def evaluation(self, part: str) -> Iterator[tuple[Inputs, Tensor]]:
        """The images of a part as they are, with labels, in batches."""
        raise NotImplementedError

    def form(self, number: int) -> Iterator[Tensor]:
        """All training images in one of the forms of a cacheable recipe, in batches: as they are (0), mirrored (1)."""
        return (images.flip(3) if number else images for images, _ in self.evaluation("train"))

    @property
    def cacheable(self) -> bool:
        """Whether what the teacher says of the inputs can be kept."""
        return self.recipe.cacheable

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
    """Images that are ready for the network and on the device: those of proxies and races. Of several draws of an image
    one is taken at random."""

    def __init__(self, split: TensorSplit, classes: int, recipe: Recipe, device: torch.device, precision: Precision):
        super().__init__(recipe, device, precision)
        self.classes, self.train, self.draws = classes, len(split.labels) // split.draws, split.draws
        self.images, self.labels = split.images, split.labels
        self.example = split.images[:2]

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(random_state(seed, epoch))
        order = self._order(generator)
        if self.draws > 1:
            order = order + self.train * torch.randint(self.draws, order.shape, generator=generator)
        for indices in order.to(self.device):
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
        first = dataset.train.images[:2]
        if self.window is not None:
            first = cropped(first, Geometry.windows(torch.zeros(len(first), 2, dtype=torch.long), self.window))
        self.example = self._seen(first)
        self.contract = contract_of(dataset, self.example)

    def _seen(self, images: Inputs) -> Inputs:
        normal = self.dataset.normalise(images.to(self.device))
        return self.precision.place(resized(normal, self.recipe.size), self.device)

    @cached_property
    def ready(self) -> Inputs | None:
        """All images as the network sees them, where the recipe leaves them as they are and memory allows."""
        if self.recipe.crop != "none" or self.recipe.flip:
            return None
        if not is_image(self.images):
            return self._seen(self.images)
        return self._seen(self.images) if 4 * self.example[0].numel() * self.train <= READY_BYTES else None

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(random_state(seed, epoch))
        order = self._order(generator).to(self.device)
        if self.ready is not None:
            for indices in order:
                yield Batch(self.ready[indices], self.labels[indices], indices)
            return
        padding = self.recipe.padding if self.recipe.crop == "pad" else 0
        if self.recipe.draws:
            draws = torch.randint(self.recipe.draws, order.shape, generator=generator).to(self.device)
            for indices, draw in zip(order, draws, strict=True):
                offset, flipped = (part[draw, indices] for part in self.bank)
                yield self._batch(indices, padding, offset, flipped, draw)
            return
        for indices, offset, flipped in zip(order, *self._crops(order.shape, padding, generator), strict=True):
            yield self._batch(indices, padding, offset, flipped)

    def _crops(self, shape: torch.Size, padding: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where each image's window begins, row and column …×2, and flips …, drawn."""
        if self.window is None:
            offsets = torch.randint(2 * padding + 1, (*shape, 2), generator=generator)
        else:
            offsets = corners(shape, self.images.shape[2:], self.window, generator)
        flips = torch.rand(shape, generator=generator) < (0.5 if self.recipe.flip else 0.0)
        return offsets.to(self.device), flips.to(self.device)

    @cached_property
    def bank(self) -> tuple[Tensor, Tensor]:
        """The kept draws, the same for every seed: offsets draw × image × 2 and flips draw × image."""
        generator = torch.Generator().manual_seed(0)
        return self._crops(torch.Size((self.recipe.draws, self.train)), self.recipe.padding, generator)

    def _batch(
        self, indices: Tensor, padding: int, offset: Tensor, flipped: Tensor, draw: Tensor | None = None
    ) -> Batch:
        moved = Geometry(offset, flipped, padding, self.window)
        images, labels = self.family.crop(self.images[indices], self.labels[indices], moved)
        return Batch(self._seen(images), labels, indices, flipped, draw)

    def form(self, number: int) -> Iterator[Tensor]:
        if not self.recipe.draws:
            yield from super().form(number)
            return
        for indices in torch.arange(self.train, device=self.device).split(EVALUATION_BATCH):
            offset, flipped = (part[number, indices] for part in self.bank)
            yield self._batch(indices, self.recipe.padding, offset, flipped).images

    def evaluation(self, part: str) -> Iterator[tuple[Inputs, Tensor]]:
        split: Split = getattr(self.dataset, part)
        size = evaluation_batch(split.images)
        for start in range(0, len(split), size):
            window = slice(start, start + size)
            yield self._seen(split.images[window]), split.labels[window].to(self.device)


class Redrawn(Resident):
    """Inputs that the user's data set draws anew for every epoch, each from the epoch and its place."""

    def __init__(
        self, dataset: OwnDataset, family: TaskFamily, recipe: Recipe, device: torch.device, readers: int
    ):  # fmt: skip
        super().__init__(dataset, family, recipe, device)
        self.live: LiveInputs = dataset.live  # type: ignore[assignment]
        self.readers = readers

    @property
    def cacheable(self) -> bool:
        return False

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        state = random_state(seed, epoch)
        order = self._order(torch.Generator().manual_seed(state))
        drawn: DataLoader[object] = DataLoader(
            _Drawn(self.live, order, state), batch_size=None, num_workers=self.readers,
            pin_memory=self.device.type == "cuda", generator=torch.Generator(),
        )  # fmt: skip
        for indices, fields in zip(order.to(self.device), drawn, strict=True):
            yield Batch(self._seen(wrapped(fields)), self.labels[indices], indices)


@dataclass(frozen=True)
class _Drawn(TorchDataset[object]):
    """The batches of an epoch, drawn when they are read, perhaps by another process."""

    live: LiveInputs
    order: Tensor
    state: int

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> object:
        if not 0 <= step < len(self.order):
            raise IndexError(step)
        return plain(self.live.draw(self.order[step], self.state))


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
        self.contract = contract_of(dataset, self.example)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        state = random_state(seed, epoch)
        order = self._order(torch.Generator().manual_seed(state))
        return self._batches("train", order, state)

    def evaluation(self, part: str) -> Iterator[tuple[Inputs, Tensor]]:
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
