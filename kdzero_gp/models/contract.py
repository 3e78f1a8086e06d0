"""What a network expects of its images: it travels with weights, so that a teacher sees what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdzero_gp.data.resizing import resized, size_text
from kdzero_gp.errors import ModelError
from kdzero_gp.models.external import timm_input

METADATA = "kdzero_gp.input"
"""The key of the contract in the metadata of a safetensors file."""
SIDECAR = ".json"
"""A file of this name after that of the weights says the same of weights that cannot: as ``teacher.pt.json``."""
PUBLISHED = ("config.json", "preprocessor_config.json")
"""Files that say it beside published weights."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601), as Pillow's mode L has them."""
TOLERANCE = 1e-4
"""Statistics that differ by less are the same; files keep so many digits."""


@dataclass(frozen=True)
class InputContract:
    """``channels``, ``size`` (height and width), ``mean`` and ``std`` of images scaled to [0, 1], and ``classes`` in
    the order of the outputs. What is None or empty is not known."""

    channels: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    def as_metadata(self) -> dict[str, str]:
        """As safetensors keep it."""
        return {METADATA: json.dumps(asdict(self), ensure_ascii=False)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], source: str = "it") -> InputContract:
        """What JSON gives; fields may be missing. Raises ModelError for what is none."""
        names = [field.name for field in fields(cls)]
        unknown = [name for name in stored if name not in names]
        if unknown:
            raise ModelError(f"{source} has a field {unknown[0]!r}; it may have {', '.join(names)}")
        given = {name: value for name, value in stored.items() if value is not None}
        try:
            found: dict[str, Any] = {
                name: value if name == "channels" else tuple(value) for name, value in given.items()
            }
            contract = cls(**found)
            if contract.channels is None and len(contract.mean) > 1:
                contract = replace(contract, channels=len(contract.mean))
            sides = contract.size is None or (len(contract.size) == 2 and min(contract.size) > 0)
            numbers = [*map(float, contract.mean), *map(float, contract.std)]
            if not sides or len(contract.mean) != len(contract.std) or any(v != v for v in numbers):
                raise ValueError
            if any(deviation <= 0 for deviation in contract.std) or len(contract.mean) not in (
                0, 1, contract.channels
            ):  # fmt: skip
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ModelError(
                f"{source} has to hold channels, size as [height, width], mean and std with one number a channel, and "
                "classes as a list of names"
            ) from None
        return contract

    def completed(self, other: InputContract) -> InputContract:
        """This contract, with what it does not know from ``other``."""
        unknown = {name: value for name, value in vars(other).items() if not getattr(self, name)}
        return replace(self, **unknown)


def read_contract(path: str | Path | None) -> InputContract | None:
    """The contract that travels with a weights file: in its metadata, in a file beside it, or in those that published
    folders have (timm's ``config.json``, transformers' ``preprocessor_config.json``); None without one. Raises
    ModelError for a file beside it that is none."""
    if path is None:
        return None
    path = Path(path).expanduser()
    if not path.is_file():
        path = path.parent / path.name.partition("#")[0]
    beside = path.parent / (path.name + SIDECAR)
    if beside.is_file():
        try:
            stored = json.loads(beside.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{beside} cannot be read ({error}); mend it or remove it") from None
        if not isinstance(stored, dict):
            raise ModelError(f"{beside} is not a JSON object; mend it or remove it")
        return InputContract.from_dict(stored, str(beside))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if METADATA in metadata:
            return InputContract.from_dict(json.loads(metadata[METADATA]))
    except (OSError, SafetensorError, ValueError, ModelError):  # other files say nothing, and are refused elsewhere
        pass
    return _published(path if path.is_dir() else path.parent)


def _published(folder: Path) -> InputContract | None:
    """What a folder as published weights come in says of their images; None where it says nothing."""
    for name in PUBLISHED:
        try:
            stored = json.loads((folder / name).read_text("utf-8"))
            if "pretrained_cfg" in stored:
                found = timm_input(stored["pretrained_cfg"])
                return None if found is None else InputContract.from_dict(found[0])
            if stored.get("do_normalize") is False:
                return InputContract(mean=(0.0,), std=(1.0,))
            if "image_mean" in stored:
                return InputContract.from_dict({"mean": stored["image_mean"], "std": stored["image_std"]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError):
            continue
    return None


class AsTaught(nn.Module):
    """A tapped network that is given images as the ``seen`` contract has them, and sees them as its ``own`` has them:
    its channels, mean and deviation, at ``size``; its logits come in the seen order of classes.

    ``network``, ``taps``, ``shapes`` and ``layers`` are the tapped network's.
    """

    def __init__(self, conversion: Conversion, tapped: Any):
        super().__init__()
        self.conversion, self.tapped = conversion, tapped
        self.taps, self.shapes, self.layers = tapped.taps, tapped.shapes, getattr(tapped, "layers", {})

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.tapped.network  # type: ignore[no-any-return]

    def forward(self, images: Tensor, *more: Tensor) -> dict[str, Tensor]:
        """The knowledge of images N×C×H×W; ``more``: what else the network is asked about."""
        outputs: dict[str, Tensor] = self.tapped(self.conversion(images), *more)
        return self.conversion.ordered(outputs)

    def untap(self) -> nn.Module:
        """The network as it was given; this object is of no use then."""
        return self.tapped.untap()  # type: ignore[no-any-return]


class Conversion(nn.Module):
    """Images normalised for ``seen`` as ``own`` wants them. ``notes`` are sentences about what differs; nothing is done
    where nothing does."""

    scale: Tensor | None
    shift: Tensor | None
    order: Tensor | None

    def __init__(self, seen: InputContract, own: InputContract, resize: bool = True):
        super().__init__()
        own = own.completed(seen)
        self.notes: list[str] = []
        self.channels = self._channels(seen, own)
        self.size = own.size if resize and own.size != seen.size else None
        if self.size and seen.size:
            self.notes.append(
                f"images of {size_text(seen.size)} pixels are given to it at its own {size_text(self.size)}"
            )
        scale, shift = self._affine(seen, own)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("order", self._order(seen.classes, own.classes), persistent=False)

    @property
    def needed(self) -> bool:
        """Whether anything differs."""
        return any(part is not None for part in (self.channels, self.size, self.scale, self.order))

    def forward(self, images: Tensor) -> Tensor:
        """Images N×C×H×W, converted."""
        if self.channels is not None and self.channels > images.shape[1]:
            images = images.expand(-1, self.channels, -1, -1)
        if self.scale is not None and self.shift is not None:
            images = images * self.scale + self.shift
        if self.channels is not None and self.channels < images.shape[1]:
            images = images.sum(1, keepdim=True)  # weighted by ``scale``
        return images if self.size is None else resized(images, self.size)

    def ordered(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs whose logits are in the seen order of classes; of regions behind the background, and with four deltas
        of each class."""
        if self.order is None:
            return outputs
        order, four = self.order, torch.arange(4, device=self.order.device)
        places = {
            "logits": order,
            "region_logits": torch.cat([torch.zeros_like(order[:1]), order + 1]),
            "region_deltas": (4 * order[:, None] + four).flatten(),
        }
        return {n: t.index_select(1, places[n]) if n in places else t for n, t in outputs.items()}

    def _channels(self, seen: InputContract, own: InputContract) -> int | None:
        if own.channels == seen.channels or own.channels is None or seen.channels is None:
            return None
        if {own.channels, seen.channels} != {1, 3}:
            raise ModelError(
                f"the teacher's weights are for images of {own.channels} channels and these have {seen.channels}; give "
                "a teacher for such images"
            )
        kinds = ("grey", "RGB") if seen.channels == 1 else ("RGB", "grey")
        self.notes.append(f"{kinds[0]} images are given to it as {kinds[1]}")
        return own.channels

    def _affine(self, seen: InputContract, own: InputContract) -> tuple[Tensor | None, Tensor | None]:
        """What turns images normalised by one mean and deviation into those of another: x·scale + shift."""
        if not seen.mean or not own.mean:
            return None, None
        wide = max(len(seen.mean), len(own.mean), self.channels or 1)
        before, after = (_widened(contract, wide) for contract in (seen, own))
        same = all((a - b).abs().max() < TOLERANCE for a, b in zip(before, after, strict=True))
        if not same:
            self.notes.append(
                f"its own mean {_numbers(own.mean)} and deviation {_numbers(own.std)} are used, not those of these "
                f"images ({_numbers(seen.mean)} and {_numbers(seen.std)})"
            )
        grey = self.channels == 1
        if same and not grey:
            return None, None
        scale, shift = before[1] / after[1], (before[0] - after[0]) / after[1]
        if grey:
            shares = torch.tensor(LUMINANCE)
            scale, shift = scale * shares, shift * shares
        return scale.view(-1, 1, 1), shift.view(-1, 1, 1)

    def _order(self, seen: Sequence[str], own: Sequence[str]) -> Tensor | None:
        """For each class of the data the teacher's column."""
        if not seen or not own or tuple(seen) == tuple(own):
            return None
        if sorted(seen) != sorted(own):
            if len(seen) == len(own):
                different = [name for name in own if name not in seen]
                self.notes.append(f"its classes have other names ({', '.join(different[:3])}); their order is trusted")
            return None
        self.notes.append("its classes are in another order, and its outputs are taken in that of these data")
        place = {name: index for index, name in enumerate(own)}
        return torch.tensor([place[name] for name in seen])


def _widened(contract: InputContract, channels: int) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (contract.mean, contract.std))
    return mean.expand(channels), std.expand(channels)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
