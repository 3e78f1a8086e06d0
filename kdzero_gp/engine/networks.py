"""Networks for the images that there are: grey ones given as RGB where a network needs that, and a teacher that sees
what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdzero_gp.data.inputs import Inputs, is_image
from kdzero_gp.data.inputs import channels as channels_of
from kdzero_gp.data.resizing import resized
from kdzero_gp.families import TaskFamily
from kdzero_gp.models.contract import AsTaught, Conversion, InputContract

RGB = 3
# Those that are made for any number of channels.
_ANY_CHANNELS = "timm"
_TORCHVISION = "torchvision"


def network_channels(family: TaskFamily, name: str, classes: int, channels: int) -> int:
    """The channels that a network of this name is built for, given images of so many: RGB where they are grey and
    its first convolution reads three. Raises ModelError for what cannot be built."""
    library, colon, _ = name.partition(":")
    if channels != 1 or not colon or library == _ANY_CHANNELS:
        return channels
    if library == _TORCHVISION:
        return RGB
    with torch.random.fork_rng([]):
        network = family.build(name, classes, channels)
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return RGB if first is not None and first.in_channels == RGB else channels


def taught(
    family: TaskFamily,
    name: str,
    seen: InputContract,
    own: InputContract | None,
    example: Inputs,
    taps: Mapping[str, str] | None = None,
    size: int = 0,
) -> Any:
    """A new teacher, tapped, for images as ``seen`` has them, like ``example`` N×C×H×W, or for inputs of other forms.
    ``own`` is what travels with its weights. Images are resized to ``size`` beforehand, or else to the size of its own.
    Raises ModelError."""
    classes = len(seen.classes)
    if not is_image(example):
        return family.tap(family.build(name, classes, channels_of(example)), example, dict(taps or {}) or None, classes)
    example = resized(example, size)
    height, width = example.shape[-2:]
    wanted = own or InputContract()
    if wanted.channels is None:
        wanted = replace(wanted, channels=network_channels(family, name, classes, example.shape[1]))
    conversion = Conversion(replace(seen, size=(height, width)), wanted, resize=not size)
    network = family.build(name, classes, wanted.channels or example.shape[1])
    tapped = family.tap(network, conversion.to(example.device)(example), dict(taps or {}) or None, classes)
    return AsTaught(conversion, tapped) if conversion.needed or conversion.notes else tapped


def mended(teacher: Any) -> list[str]:
    """What was done so that a teacher sees what it was trained on, in sentences."""
    return teacher.conversion.notes if isinstance(teacher, AsTaught) else []
