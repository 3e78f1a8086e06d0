"""``knowledge``: what a network exposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdzero_gp.analysis import markup
from kdzero_gp.data.inputs import real, wrapped
from kdzero_gp.data.samples import read
from kdzero_gp.models.own import OwnNetwork
from kdzero_gp.models.taps import Tapped


@dataclass(frozen=True)
class Exposed:
    """One knowledge of a network: its ``layer`` as a tap names it, and its ``shape`` for one sample."""

    name: str
    layer: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NetworkKnowledge(Sequence[Exposed]):  # type: ignore[misc]
    """What a network exposes, one row for each knowledge; ``note`` says what was chosen, or nothing."""

    network: str
    rows: tuple[Exposed, ...]
    note: str = ""

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        lines = [f"{one.name:<8}{'×'.join(map(str, one.shape)):<14}{one.layer}" for one in self.rows]
        return "\n".join([self.network, *lines, *([self.note] if self.note else [])])

    def _repr_html_(self) -> str:
        rows = [[one.name, "×".join(map(str, one.shape)), one.layer] for one in self.rows]
        return markup.plain(markup.tag("p", self.network), markup.table(["knowledge", "shape", "layer"], rows, (2,)),
                            markup.tag("p", self.note))  # fmt: skip


def knowledge(module: nn.Module, example: Any, taps: dict[str, str] | None = None) -> NetworkKnowledge:
    """Which tensors distillers can use of a network, and the layers that they are read from.

    ``example``: a batch of inputs (a tensor, or a mapping of tensors), or data as ``evolve`` takes them. ``taps`` name
    layers by hand, as in ``{"feat": "layer3"}``. The module stays as it is. Raises ModelError where nothing is found.

    Example: ``kdzero_gp.knowledge(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))``.
    """
    batch = example
    if isinstance(example, Tensor) or (
        isinstance(example, dict) and all(isinstance(t, Tensor) for t in example.values())
    ):
        batch = wrapped(example)
    elif isinstance(example, DataLoader) or not isinstance(example, dict):
        batch = read(example, "example").inputs[:2]
    made = OwnNetwork(module, "network")
    network = Tapped(made.build(0), real(batch), taps)
    rows = tuple(Exposed(name, layer, shape) for name, layer, shape in network.describe())
    return NetworkKnowledge(made.kind, rows, " ".join(filter(None, (made.note, network.note))))
