"""What a network computes: in which precision, and its outputs on many images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Precision:
    """How the student computes: ``float32``, or ``bfloat16`` under autocast, and the layout of images."""

    name: str = "float32"
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def forward(self, student: nn.Module, images: Tensor) -> Outputs:
        """A network's outputs in float32."""
        if self.name == "float32":
            return student(images)
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            found = student(images)
        return {name: tensor.float() for name, tensor in found.items()}


FLOAT32 = Precision()


@dataclass
class TensorSplit:
    """Images ready for the network (float32 N×C×H×W), their labels (int64 N) and the teacher's outputs on them."""

    images: Tensor
    labels: Tensor
    teacher: Outputs = field(default_factory=dict)

    def to(self, device: torch.device, memory_format: torch.memory_format) -> TensorSplit:
        """The same on ``device``."""
        images = self.images.to(device=device, memory_format=memory_format)
        return TensorSplit(images, self.labels.to(device), {k: v.to(device).float() for k, v in self.teacher.items()})


@torch.no_grad()
def outputs(
    network: nn.Module,
    images: Tensor,
    batch: int = 500,
    keep: Sequence[str] | None = None,
    precision: Precision = FLOAT32,
) -> Outputs:
    """A tapped network's outputs on all images, in evaluation mode."""
    network.eval()
    pieces: dict[str, list[Tensor]] = {}
    for start in range(0, len(images), batch):
        for name, tensor in precision.forward(network, images[start : start + batch]).items():
            if keep is None or name in keep:
                pieces.setdefault(name, []).append(tensor.float())
    return {name: torch.cat(tensors) for name, tensors in pieces.items()}
