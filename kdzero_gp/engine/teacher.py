"""The teacher in a training: asked on every batch, or once about all images where a recipe leaves them as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.data.inputs import Inputs
from kdzero_gp.data.resizing import resized
from kdzero_gp.engine.batches import Batch, Batches
from kdzero_gp.engine.outputs import Outputs, Precision
from kdzero_gp.families import TaskFamily
from kdzero_gp.files import atomic_write
from kdzero_gp.models.taps import Tapped
from primitives import PROPOSALS

# What a teacher says of all images is kept when it takes at most this much of the disk.
KEPT_BYTES = 4 << 30
# A distiller's targets of all images are computed once when they take at most this many bytes.
TARGET_BYTES = 2 << 30
# … so many images at a time.
CHUNK = 8192


class Teacher:
    """A distiller and what it needs of the teacher, in a training."""

    def __init__(self, distiller: Any, family: TaskFamily):
        self.distiller, self.family = distiller, family

    # a second class head in the training, if there is one (see ``engine.shadow``)
    head: nn.Module | None = None

    @property
    def trained(self) -> list[nn.Module]:
        """What is trained beside the student: the distiller's adapters."""
        return [self.distiller]

    def outputs(self, batch: Batch, images: Inputs, student: Outputs) -> Outputs:
        """The teacher's outputs on a batch whose images may have been mixed, given the student's."""
        raise NotImplementedError

    @torch.no_grad()
    def fresh_targets(self, batch: Batch, images: Inputs, labels: Tensor, student: Outputs) -> Outputs:
        """The distiller's targets for a batch, computed now; ``labels`` as its label operations index them."""
        return self.distiller.prepare(self.outputs(batch, images, student), labels)  # type: ignore[no-any-return]

    def targets(self, batch: Batch, images: Inputs, labels: Tensor, student: Outputs) -> Outputs:
        """The distiller's targets for a batch, in a training."""
        return self.fresh_targets(batch, images, labels, student)

    def loss(self, student: Outputs, batch: Batch, images: Inputs, labels: Tensor) -> Tensor:
        """The distiller's loss of a student's outputs on a batch."""
        indexed = self.family.labels(labels)
        targets = self.targets(batch, images, indexed, student)
        return self.distiller.loss(student, targets, indexed)  # type: ignore[no-any-return]


class LiveTeacher(Teacher):
    """A teacher that is asked about every batch, at its own image size."""

    def __init__(self, distiller: Any, family: TaskFamily, network: Tapped, batches: Batches, precision: Precision):
        super().__init__(distiller, family)
        self.network = network.eval().requires_grad_(False)
        self.batches, self.precision = batches, precision
        self.at_student = set(family.at_student) & set(distiller.KNOWLEDGE)

    def outputs(self, batch: Batch, images: Inputs, student: Outputs) -> Outputs:
        about = (student[PROPOSALS],) if self.at_student else ()
        return ask(self.network, images, self.batches, self.precision, *about)


class KeptTeacher(Teacher):
    """What a teacher said of all images once: tensors form × image × …, the forms being those of the recipe (see
    ``Batches.form``). ``labels`` are those of all images."""

    def __init__(self, distiller: Any, family: TaskFamily, kept: Outputs, labels: Tensor):
        super().__init__(distiller, family)
        self.kept, self.labels = kept, labels

    def outputs(self, batch: Batch, images: Inputs, student: Outputs) -> Outputs:
        return {name: tensor[batch.form, batch.indices].float() for name, tensor in self.kept.items()}

    def targets(self, batch: Batch, images: Inputs, labels: Tensor, student: Outputs) -> Outputs:
        if self.ready is None:
            return super().targets(batch, images, labels, student)
        places = batch.indices + batch.form * len(self.labels)
        return {name: tensor[places] for name, tensor in self.ready.items()}

    @cached_property
    def ready(self) -> Outputs | None:
        """The targets of all forms and images, or None where they would take too much memory."""
        count = len(self.labels)
        forms = len(next(iter(self.kept.values()))) if self.kept else 1
        labels = self.family.labels(self.labels)
        if count == 0 or (forms > 1 and labels.dim() > 1):  # label maps and boxes are mirrored with their images
            return None
        with torch.no_grad():
            return self._prepare_all(labels, forms)

    def _prepare_all(self, labels: Tensor, forms: int) -> Outputs | None:
        few = torch.arange(min(2, len(labels)), device=labels.device)
        sample = self.distiller.prepare({name: t[0, few].float() for name, t in self.kept.items()}, labels[few])
        per_image = sum(tensor[0].numel() * tensor.element_size() for tensor in sample.values())
        if per_image * len(labels) * forms > TARGET_BYTES:
            return None
        flat = {name: tensor.flatten(0, 1) for name, tensor in self.kept.items()}
        indexed = labels.repeat(forms, *[1] * (labels.dim() - 1))
        pieces = [
            self.distiller.prepare({name: t[start : start + CHUNK].float() for name, t in flat.items()}, part)
            for start, part in zip(range(0, len(indexed), CHUNK), indexed.split(CHUNK), strict=True)
        ]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


@torch.no_grad()
def ask(network: Tapped, images: Inputs, batches: Batches, precision: Precision, *about: Tensor) -> Outputs:
    """What a teacher says of normalised images, at its own image size, in float32; ``about``: the student's proposals,
    where it is asked about these."""
    seen = resized(images, batches.recipe.teacher_image_size)
    return precision.forward(lambda seen: network(seen, *about), precision.place(seen, images.device))


def keep(network: Tapped, names: Collection[str], batches: Batches, precision: Precision, path: Path) -> bool:
    """Write a teacher's outputs of these names on all training images, in all forms that the recipe gives them, to
    ``path``; returns whether ``kept`` finds them there.

    They are not written where the recipe changes images in more ways than that, or where they would take more than
    ``KEPT_BYTES`` or more than the disk has.
    """
    if not batches.cacheable:
        return False
    if path.exists():
        return True
    forms = batches.recipe.forms
    numbers = sum(torch.Size(network.shapes[name]).numel() for name in names)
    if numbers * 4 * batches.train * forms > KEPT_BYTES:
        return False
    network.eval()
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    for form in range(forms):
        for images in batches.form(form):
            outputs = ask(network, images, batches, precision)
            for name in names:
                pieces[name].append(_narrow(outputs[name]).cpu())
    whole = {name: torch.cat(parts).unflatten(0, (forms, batches.train)) for name, parts in pieces.items()}
    try:
        atomic_write(path, lambda temporary: torch.save(whole, temporary))
    except Exception:  # a full disk; the teacher is asked on every batch then
        return False
    return True


def _narrow(tensor: Tensor) -> Tensor:
    """In bfloat16 where that is exact, as it is for what was computed in it."""
    half = tensor.bfloat16()
    return half if torch.equal(half.float(), tensor) else tensor


def kept(path: Path, names: Iterable[str], device: torch.device) -> Outputs:
    """The outputs of these names that ``keep`` wrote; on a CPU they stay on the disk until they are looked at, and
    processes share what they have read of them."""
    whole = torch.load(path, mmap=True, weights_only=True)
    return {name: whole[name].to(device) for name in names}
