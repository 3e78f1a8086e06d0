"""Networks for the images that there are: grey ones given as RGB where a network needs that, and a teacher that sees
what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdzero_gp import objects
from kdzero_gp.data.dataset import Dataset, Statistics
from kdzero_gp.data.inputs import Inputs, is_image
from kdzero_gp.data.inputs import channels as channels_of
from kdzero_gp.data.own import OwnDataset
from kdzero_gp.data.resizing import resized
from kdzero_gp.errors import SettingError
from kdzero_gp.families import TaskFamily
from kdzero_gp.models.contract import AsTaught, Conversion, InputContract, read_contract
from kdzero_gp.models.external import published_input, timm_input
from kdzero_gp.models.normalisation import for_channels

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


def expected_input(name: str, weights: str | Path | None, classes: int) -> InputContract | None:
    """What is known of the images that a network with weights was trained on: what travels with the weights, else what
    timm or torchvision record of the network's published ones, where these have as many classes. None: nothing."""
    return read_contract(weights) or _recorded(name, weights, classes)


def _recorded(name: str, weights: str | Path | None, classes: int) -> InputContract | None:
    if objects.is_own(name):
        made = getattr(objects.find(name), "made", None)
        record = timm_input(getattr(made, "pretrained_cfg", None) or {})
        if record is None or record[1] != classes:
            return None
        return InputContract(mean=record[0]["mean"], std=record[0]["std"])
    record = published_input(name) if weights is not None else None
    return InputContract(**record[0]) if record is not None and record[1] == classes else None


def for_student(
    dataset: Dataset, given: Statistics | None, name: str, weights: str | Path | None, channels: int | None = None
) -> Dataset:
    """The data set normalised for a student: as is ``given``, or as it is known of the weights that it starts from,
    else by the images' own mean and deviation. Raises SettingError where the inputs are no images."""
    channels = channels or max(1, len(dataset.mean))
    if given is not None:
        if not is_image(dataset.train.images):
            raise SettingError(
                "--student-mean and --student-std are for images, and the inputs are none; leave them out"
            )
        return replace(dataset, given=for_channels(given, dataset.train.images.shape[1], "student"))
    if weights is None or isinstance(dataset, OwnDataset):  # the user's own are as the user's networks take them
        return dataset
    known = expected_input(name, weights, len(dataset.classes))
    if known is None or len(known.mean) not in (1, channels):
        return dataset
    return replace(dataset, given=for_channels(Statistics(known.mean, known.std), channels, "student"))


def taught(
    family: TaskFamily,
    name: str,
    seen: InputContract,
    own: InputContract | None,
    example: Inputs,
    taps: Mapping[str, str] | None = None,
    size: int = 0,
    given: Statistics | None = None,
    usual: Statistics | None = None,
) -> Any:
    """A new teacher, tapped, for images as ``seen`` has them, like ``example`` N×C×H×W, or for inputs of other forms.

    ``own`` is what is known of the images that it was trained on; ``given`` are mean and deviation that the user says,
    ``usual`` those where nobody says any (None: as ``seen``). Images are resized to ``size`` beforehand, or else to the
    size of its own. Raises ModelError, and SettingError for statistics of other channels.
    """
    classes = len(seen.classes)
    if not is_image(example):
        if given is not None:
            raise SettingError(
                "--teacher-mean and --teacher-std are for images, and the inputs are none; leave them out"
            )
        return family.tap(family.build(name, classes, channels_of(example)), example, dict(taps or {}) or None, classes)
    example = resized(example, size)
    height, width = example.shape[-2:]
    wanted = own or InputContract()
    if wanted.channels is None:
        wanted = replace(wanted, channels=network_channels(family, name, classes, example.shape[1]))
    channels = wanted.channels or example.shape[1]
    if given is not None:
        mean, std = for_channels(given, channels, "teacher")
        wanted = replace(wanted, mean=mean, std=std)
        if not seen.mean:  # the user's own real numbers
            seen = replace(seen, mean=(0.0,), std=(1.0,))
    elif usual is not None and not wanted.mean:
        wanted = replace(wanted, mean=usual.mean, std=usual.std)
    conversion = Conversion(replace(seen, size=(height, width)), wanted, resize=not size)
    network = family.build(name, classes, channels)
    tapped = family.tap(network, conversion.to(example.device)(example), dict(taps or {}) or None, classes)
    return AsTaught(conversion, tapped) if conversion.needed or conversion.notes else tapped


def mended(teacher: Any) -> list[str]:
    """What was done so that a teacher sees what it was trained on, in sentences."""
    return teacher.conversion.notes if isinstance(teacher, AsTaught) else []
