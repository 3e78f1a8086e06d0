"""What a network computes: in which precision, and its outputs on many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.data.inputs import Inputs, NamedInputs, is_image, plain, wrapped
from kdzero_gp.errors import SettingError

Outputs = dict[str, Tensor]

DTYPES = ("float32", "bfloat16")
CHANNELS_LAST = "channels-last"
# Images in one batch of an evaluation, and pixels in it where images are large.
EVALUATION_BATCH = 500
EVALUATION_PIXELS = 1 << 22


@dataclass(frozen=True)
class Precision:
    """How the student computes: ``float32``, or ``bfloat16`` under autocast, and the layout of images.

    >>> str(Precision.parse("bfloat16,channels-last"))
    'bfloat16,channels-last'
    """

    name: str = "float32"
    channels_last: bool = False

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read what ``str`` gives. Raises SettingError."""
        name, comma, layout = text.replace(" ", "").partition(",")
        if name not in DTYPES or (comma and layout != CHANNELS_LAST):
            names = ", ".join(name + layout for name in DTYPES for layout in ("", f",{CHANNELS_LAST}"))
            raise SettingError(f"--precision must be one of {names}, got {text!r}")
        return cls(name, bool(comma))

    def __str__(self) -> str:
        return self.name + (f",{CHANNELS_LAST}" if self.channels_last else "")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, tensor: Inputs, device: torch.device) -> Inputs:
        """Inputs on the device; images in this layout."""
        if isinstance(tensor, NamedInputs):
            return NamedInputs({name: self.place(field, device) for name, field in tensor.fields.items()})
        if tensor.dim() != 4:
            return tensor.to(device)
        return tensor.to(device=device, memory_format=self.memory_format)

    def forward(self, student: Callable[[Inputs], Outputs], images: Inputs) -> Outputs:
        """A network's outputs in float32."""
        if self.name == "float32":
            return student(images)
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            computed = student(images)
        return {name: tensor.float() for name, tensor in computed.items()}


FLOAT32 = Precision()


@dataclass
class TensorSplit:
    """Inputs ready for the network (images: float32 N×C×H×W), their labels (N…) and the teacher's outputs on them.

    ``draws``: how many times they are there one after the other, each time drawn anew by a random transform.
    """

    images: Inputs
    labels: Tensor
    teacher: Outputs = field(default_factory=dict)
    draws: int = 1

    def to(self, device: torch.device, precision: Precision) -> TensorSplit:
        """The same on ``device``."""
        teacher = {name: tensor.to(device).float() for name, tensor in self.teacher.items()}
        return TensorSplit(precision.place(self.images, device), self.labels.to(device), teacher, self.draws)

    def stored(self) -> dict[str, Any]:
        """As ``torch.save`` keeps it without code."""
        return vars(self) | {"images": plain(self.images)}

    @classmethod
    def from_stored(cls, content: dict[str, Any]) -> TensorSplit:
        """What ``stored`` gave."""
        return cls(**content | {"images": wrapped(content["images"])})


def evaluation_batch(images: Inputs) -> int:
    """How many inputs like these are evaluated at a time: fewer of large images."""
    if not is_image(images):
        return EVALUATION_BATCH
    return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // max(1, images.shape[-1] * images.shape[-2])))


@torch.no_grad()
def outputs(
    network: nn.Module,
    images: Inputs,
    batch: int = 0,
    keep: Sequence[str] | None = None,
    precision: Precision = FLOAT32,
) -> Outputs:
    """A tapped network's outputs on all images, in evaluation mode, ``batch`` at a time (0: as many as fit)."""
    network.eval()
    batch = batch or evaluation_batch(images)
    pieces: dict[str, list[Tensor]] = {}
    for start in range(0, len(images), batch):
        for name, tensor in precision.forward(network, images[start : start + batch]).items():
            if keep is None or name in keep:
                pieces.setdefault(name, []).append(tensor.float())
    return {name: torch.cat(tensors) for name, tensors in pieces.items()}
