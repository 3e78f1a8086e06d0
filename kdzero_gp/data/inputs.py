"""What networks get: a tensor of any rank, or several tensors by name, which a network takes as keyword arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class NamedInputs:
    """Tensors N×… by name, used like one tensor: indexed along their first axis, moved to a device, counted."""

    def __init__(self, fields: Mapping[str, Tensor]):
        self.fields = dict(fields)

    @property
    def first(self) -> Tensor:
        """The one that tells what the input is: the image where there is one, else the first."""
        images = [tensor for tensor in self.fields.values() if tensor.dim() == 4]
        return images[0] if images else next(iter(self.fields.values()))

    @property
    def shape(self) -> torch.Size:
        """That of ``first``."""
        return self.first.shape

    @property
    def device(self) -> torch.device:
        return self.first.device

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: Any) -> NamedInputs:
        return self._each(lambda tensor: tensor[index])

    def to(self, *arguments: Any, **options: Any) -> NamedInputs:
        return self._each(lambda tensor: tensor.to(*arguments, **options))

    def detach(self) -> NamedInputs:
        return self._each(Tensor.detach)

    def clone(self) -> NamedInputs:
        return self._each(Tensor.clone)

    def contiguous(self) -> NamedInputs:
        return self._each(Tensor.contiguous)

    def numel(self) -> int:
        return sum(tensor.numel() for tensor in self.fields.values())

    def repeated(self, count: int) -> NamedInputs:
        """The first sample, ``count`` times."""
        return self._each(lambda tensor: repeated(tensor, count))

    def _each(self, change: Any) -> NamedInputs:
        return NamedInputs({name: change(tensor) for name, tensor in self.fields.items()})


Inputs = Any  # a Tensor or NamedInputs, which are used alike


def forward(network: nn.Module, inputs: Inputs) -> Any:
    """What a network gives for inputs."""
    return network(**inputs.fields) if isinstance(inputs, NamedInputs) else network(inputs)


def is_image(inputs: Inputs) -> bool:
    """Whether inputs are one tensor N×C×H×W of real numbers or bytes, which can be cropped and resized."""
    return (
        isinstance(inputs, Tensor) and inputs.dim() == 4 and (inputs.is_floating_point() or inputs.dtype == torch.uint8)
    )


def side(inputs: Inputs) -> int:
    """The width of images; 1 for what is none, which is as cheap as a small image.

    >>> side(torch.zeros(2, 3, 48, 64)), side(torch.zeros(2, 30))
    (64, 1)
    """
    return (
        int(inputs.shape[-1])
        if is_image(inputs) or (isinstance(inputs, NamedInputs) and inputs.first.dim() == 4)
        else 1
    )


def channels(inputs: Inputs) -> int:
    """The second size of inputs: channels of images and sequences, features of vectors; 1 where there is none."""
    return int(inputs.shape[1]) if len(inputs.shape) > 1 else 1


def repeated(inputs: Inputs, count: int) -> Inputs:
    """The first sample, ``count`` times."""
    if isinstance(inputs, NamedInputs):
        return inputs.repeated(count)
    return inputs[:1].expand(count, *inputs.shape[1:]).clone()


def real(inputs: Inputs) -> Inputs:
    """Real numbers in float32, whole ones as they are."""
    if isinstance(inputs, NamedInputs):
        return NamedInputs({name: real(tensor) for name, tensor in inputs.fields.items()})
    return inputs.float() if inputs.is_floating_point() else inputs


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Inputs one after the other."""
    if isinstance(parts[0], NamedInputs):
        return NamedInputs({name: torch.cat([part.fields[name] for part in parts]) for name in parts[0].fields})
    return torch.cat(list(parts))


def shape_text(inputs: Inputs) -> str:
    """The shape of one sample in words.

    >>> tokens = torch.zeros(2, 16)
    >>> shape_text(torch.zeros(2, 3, 8, 8)), shape_text(NamedInputs({"ids": tokens, "mask": tokens}))
    ('3×8×8', 'ids 16, mask 16')
    """
    if isinstance(inputs, NamedInputs):
        return ", ".join(f"{name} {shape_text(tensor)}" for name, tensor in inputs.fields.items())
    return "×".join(map(str, inputs.shape[1:])) or "1"


def plain(inputs: Inputs) -> Any:
    """Inputs as ``torch.save`` keeps them without code: a tensor or a mapping of tensors."""
    return dict(inputs.fields) if isinstance(inputs, NamedInputs) else inputs


def wrapped(stored: Any) -> Inputs:
    """Inputs from a tensor or a mapping of tensors."""
    return NamedInputs(stored) if isinstance(stored, Mapping) else stored


def tensors_of(inputs: Inputs) -> Iterable[tuple[str, Tensor]]:
    """All tensors with their names ('' for the only one)."""
    return inputs.fields.items() if isinstance(inputs, NamedInputs) else [("", inputs)]
