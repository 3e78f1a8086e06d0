"""The teacher in a training: asked on every batch, or once about all images where a recipe leaves them as they are."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kdzero_gp.engine.batches import Batch, Images
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.models.taps import Tapped
from kdzero_gp.training.pair import resized

Tensors = dict[str, Tensor]

# What a teacher says of all images is kept when it takes at most this much of the disk.
KEPT_BYTES = 4 << 30


class Teacher:
    """A teacher and a distiller's part of it. ``kept`` are the teacher's outputs, form (as it is, mirrored) × image ×
    …; without them the teacher is asked on every batch."""

    def __init__(self, network: Tapped, distiller: nn.Module, images: Images, precision: Precision):
        self.network = network.eval().requires_grad_(False)
        self.distiller = distiller
        self.images = images
        self.precision = precision
        self.kept: Tensors | None = None

    def targets(self, batch: Batch, images: Tensor, labels: Tensor) -> Tensors:
        """The distiller's targets for one batch whose images may have been mixed."""
        if self.kept is None:
            found = outputs(self.network, images, self.images, self.precision)
        else:
            place = batch.flipped.long(), batch.indices
            found = {name: tensor[place].float() for name, tensor in self.kept.items()}
        with torch.no_grad():
            return self.distiller.prepare(found, labels)  # type: ignore[operator,no-any-return]


@torch.no_grad()
def outputs(network: Tapped, images: Tensor, among: Images, precision: Precision) -> Tensors:
    """What a teacher says of normalised images, at its own image size, in float32."""
    seen = resized(images, among.recipe.teacher_image_size)
    return precision.forward(network, seen.contiguous(memory_format=precision.memory_format))


class _Asked(Mapping[str, Tensor]):
    """Tensors by name that remember which of them somebody wanted."""

    def __init__(self, tensors: Tensors):
        self.tensors = tensors
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def asked(distiller: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The names of a teacher's tensors that a distiller makes use of, found by letting it look at zeros."""
    device = next((parameter.device for parameter in distiller.parameters()), torch.device("cpu"))
    given = _Asked({name: torch.zeros(2, *shape, device=device) for name, shape in shapes.items()})
    with torch.random.fork_rng([]):
        distiller.prepare(given, torch.zeros(2, dtype=torch.long, device=device))  # type: ignore[operator]
    return given.names


def keep(network: Tapped, names: Collection[str], images: Images, precision: Precision, path: Path) -> bool:
    """Write a teacher's outputs of these names on all training images, and on their mirror images where the recipe
    flips, to ``path``; returns whether ``kept`` finds them there.

    They are not written where the recipe changes images in more ways than that, or where they would take more than
    ``KEPT_BYTES`` or more than the disk has.
    """
    if not images.recipe.cacheable:
        return False
    if path.exists():
        return True
    forms = (False, True) if images.recipe.flip else (False,)
    numbers = sum(torch.Size(network.shapes[name]).numel() for name in names)
    if numbers * 4 * images.train * len(forms) > KEPT_BYTES:
        return False
    network.eval()
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    for flipped in forms:
        for batch, _ in images.evaluation("train"):
            found = outputs(network, batch.flip(3) if flipped else batch, images, precision)
            for name in names:
                pieces[name].append(_narrow(found[name]).cpu())
    whole = {name: torch.cat(parts).unflatten(0, (len(forms), images.train)) for name, parts in pieces.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(whole, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError):  # a full disk; the teacher is asked on every batch then
        temporary.unlink(missing_ok=True)
        return False
    return True


def _narrow(tensor: Tensor) -> Tensor:
    """In bfloat16 where that is exact, as it is for what was computed in it."""
    half = tensor.bfloat16()
    return half if torch.equal(half.float(), tensor) else tensor


def kept(path: Path, names: Collection[str], device: torch.device) -> Tensors:
    """The outputs of these names that ``keep`` wrote; on a CPU they stay on the disk until they are looked at, and
    processes share what they have read of them."""
    found = torch.load(path, mmap=True, weights_only=True)
    return {name: found[name].to(device) for name in names}
