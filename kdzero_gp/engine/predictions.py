"""What networks say of a few images, kept for pictures: a small file of tensors and text that runs no code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from kdzero_gp.data.inputs import Inputs, is_image
from kdzero_gp.families import Outputs, TaskFamily
from kdzero_gp.files import atomic_write
from kdzero_gp.models.contract import InputContract

FILE = "predictions.safetensors"
"""The name of the file in the folder of a training, a comparison or a run."""
TEACHER, BEFORE, AFTER = "teacher", "student before", "student"
"""What the networks of one training are called in it."""
IMAGES = 4
"""Of so many images predictions are kept."""
LONGEST = 320
"""Pixels of the longer side at which they are kept."""
MAXIMUM = 255.0
NO_LABEL = 255
"""In a label map that is kept: no label."""
_SAID, _FACTS = "said ", "kdzero_gp.predictions"


@dataclass(frozen=True)
class Predictions:
    """Images N×C×H×W (uint8), their targets (``truth``), and what networks ``said`` of them, by the networks' names:
    label maps N×H×W (uint8, 255 without a label), or boxes N×D×5 and N×D×6 as ``TaskFamily.shown`` has them.

    ``measured``: of each network the measures on all images of the part that these are of.
    """

    images: Tensor
    truth: Tensor
    said: Mapping[str, Tensor]
    classes: tuple[str, ...] = ()
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file; it appears whole or not at all. Raises RunError where it cannot."""
        tensors = {"images": self.images, "truth": self.truth}
        tensors |= {_SAID + name: tensor for name, tensor in self.said.items()}
        # safetensors puts names into an order of its own
        facts = {"classes": self.classes, "order": list(self.said), "measured": self.measured}
        whole = save({name: t.contiguous().clone() for name, t in tensors.items()}, {_FACTS: json.dumps(facts)})
        atomic_write(path, whole)

    @classmethod
    def load(cls, path: Path) -> Predictions | None:
        """What ``save`` wrote; None where there is no such file, or another version's or a damaged one: a page lacks
        its pictures then and nothing else."""
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[_FACTS])
                said = {name: file.get_tensor(_SAID + name) for name in facts["order"]}
                tensors = file.get_tensor("images"), file.get_tensor("truth")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        return cls(*tensors, said, tuple(facts["classes"]), facts["measured"])

    def named(self, names: Mapping[str, str]) -> Predictions:
        """The networks of these names alone, under new ones, in this order."""
        there = {old: new for old, new in names.items() if old in self.said}
        measured = {new: self.measured[old] for old, new in there.items() if old in self.measured}
        return replace(self, said={new: self.said[old] for old, new in there.items()}, measured=measured)

    def beside(self, other: Predictions) -> Predictions:
        """With what other networks said of the same images."""
        return replace(
            self, said={**self.said, **other.said}, measured={**self.measured, **other.measured}
        )  # fmt: skip


def draws(family: TaskFamily) -> bool:
    """Whether predictions of a family can be drawn."""
    return type(family).shown is not TaskFamily.shown


def some(inputs: Any) -> Any:
    """Those of some inputs, or of their targets, of which predictions are kept: spread over all, since neighbours may
    be frames of one film."""
    count = min(IMAGES, len(inputs))
    places = torch.linspace(0, len(inputs) - 1, count).round().long()
    return inputs[places.to(inputs.device)]


def pictured(family: TaskFamily, images: Inputs, targets: Tensor, contract: InputContract) -> Predictions | None:
    """A few normalised images, and their targets, with nothing said of them yet; None where the family draws
    nothing, or the inputs are no images."""
    if not draws(family) or not is_image(images) or not contract.mean or not len(images):
        return None
    mean, deviation = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (contract.mean, contract.std))
    pixels = (images.detach().float().cpu() * deviation + mean).mul(MAXIMUM).round().clamp(0, MAXIMUM).byte()
    return Predictions(_smaller(pixels), _kept(targets), {}, contract.classes)


@torch.no_grad()
def said(family: TaskFamily, network: Callable[[Inputs], Outputs], images: Inputs) -> Tensor:
    """What a network in evaluation mode says of a few normalised images, as it is kept."""
    found = family.shown(network(images), (images.shape[2], images.shape[3]))
    assert found is not None
    return _kept(found)


def packed(told: Tensor) -> bytes:
    """One network's predictions as bytes, which processes send and folders keep."""
    return save({"said": told.contiguous()})


def unpacked(content: bytes) -> Tensor | None:
    """What ``packed`` gave; None for what is damaged."""
    try:
        return load(content)["said"]
    except (KeyError, ValueError, SafetensorError):
        return None


def _kept(targets: Tensor) -> Tensor:
    targets = targets.detach().cpu()
    if targets.is_floating_point():
        return targets.float()
    maps = torch.where((targets < 0) | (targets >= NO_LABEL), NO_LABEL, targets).byte()
    return _smaller(maps[:, None])[:, 0]


def _smaller(pictures: Tensor) -> Tensor:
    """Every so manieth pixel, which keeps labels what they are."""
    step = -(-max(pictures.shape[2:]) // LONGEST)
    return pictures[:, :, ::step, ::step].contiguous()
