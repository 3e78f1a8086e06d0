"""A copy of a network's own class head, on the maps of that network or of another one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.compiler.knowledge import PYRAMID
from kdzero_gp.errors import ModelError
from kdzero_gp.models import discovery
from kdzero_gp.models.detection import Detector
from kdzero_gp.models.segmentation import AtrousDecoder, DeepLabV3Plus, SmallSegmenter

TOLERANCE = 1e-4
"""So far, relative to the largest logit, a copy may be from what it is a copy of."""
Shape = tuple[int, ...]


class ClassHead(nn.Module):
    """Logits of a network's maps, from a copy of its head with the weights that the head has now. ``reads`` names the
    maps; those of another network, of ``shapes``, pass a 1×1 convolution to the head's own channels first.

    The logits have the size ``size``, bilinear where the head gives label maps of another one.
    """

    reads: tuple[str, ...]

    def __init__(self, head: nn.Module, reads: tuple[str, ...], adapters: Mapping[str, nn.Module], size: Shape):
        super().__init__()
        self.head, self.reads, self.size = copy.deepcopy(head), reads, size
        self.adapters = nn.ModuleDict(adapters)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Logits N×K×M, or N×K×h×w."""
        adapted = [self.adapters[n](maps[n]) if n in self.adapters else maps[n] for n in self.reads]
        logits = self._logits(adapted).float()
        if logits.dim() == 4 and logits.shape[2:] != self.size:
            return F.interpolate(logits, self.size, mode="bilinear", align_corners=False)
        return logits

    def _logits(self, maps: list[Tensor]) -> Tensor:
        raise NotImplementedError


class _OfAnchors(ClassHead):
    def _logits(self, maps: list[Tensor]) -> Tensor:
        return self.head(maps).transpose(1, 2)  # type: ignore[no-any-return]


class _OfPriors(_OfAnchors):
    def _logits(self, maps: list[Tensor]) -> Tensor:
        logits = super()._logits(maps)
        return logits[:, 1:] - logits[:, :1]  # of a softmax only differences count: the background is 0


class _OfOneMap(ClassHead):
    def _logits(self, maps: list[Tensor]) -> Tensor:
        return self.head(maps[0])  # type: ignore[no-any-return]


class _OfTwoMaps(ClassHead):
    def _logits(self, maps: list[Tensor]) -> Tensor:
        return self.head(*maps)  # type: ignore[no-any-return]


class _OfNamedMaps(ClassHead):
    def _logits(self, maps: list[Tensor]) -> Tensor:
        return self.head(dict(zip(("low", "high"), maps, strict=True)))  # type: ignore[no-any-return]


def copied_head(tapped: Any, example: Tensor, other: Mapping[str, Shape] | None = None) -> ClassHead:
    """A copy of a tapped network's class head; ``other``: what the network exposes, per sample, whose maps it is put on
    (None: its own). Raises ModelError where the head cannot be told from the network, or the other lacks its maps."""
    name = type(_bare(tapped.network)).__name__
    kind, head, reads = _parts(tapped)
    if kind is None or not all(level in tapped.shapes for level in reads):
        raise ModelError(
            f"the class head of {name} cannot be copied, so it has no shadow; there are those of RetinaNet, FCOS, "
            "SSD, the built-in and torchvision's segmenters, or of a network whose classifier makes logits of feat"
        )
    plain = kind(head, reads, {}, tapped.shapes["logits"][1:])
    with discovery.left_as_found(tapped, example.device), torch.no_grad():
        outputs = tapped.to(example.device).eval()(example)
        try:
            told, wanted = plain.to(example.device).eval()(outputs), outputs["logits"].float()
        except Exception as error:  # anything, from a user's own classifier
            raise ModelError(
                f"the class head of {name} takes something else than the maps {', '.join(reads)}, so it has no shadow"
            ) from error
    if told.shape != wanted.shape or (told - wanted).abs().max() > TOLERANCE * wanted.abs().max() + TOLERANCE:
        raise ModelError(f"a copy of the class head of {name} gives other logits than the network, so it has no shadow")
    if other is None:
        return plain.train()
    lacking = next((level for level in reads if level not in other), None)
    if lacking is None and reads[0].startswith(PYRAMID):
        lacking = next((level for level in reads if other[level][1:] != tapped.shapes[level][1:]), None)
    if lacking is not None:
        raise ModelError(
            f"the teacher has no map {lacking} of the student's size for a shadow head; use --shadow student, or a "
            "teacher with the same strides"
        )
    adapters = {level: nn.Conv2d(other[level][0], tapped.shapes[level][0], 1) for level in reads}
    return kind(head, reads, adapters, other["logits"][1:]).train()


def _bare(network: nn.Module) -> nn.Module:
    return network.network if isinstance(getattr(network, "network", None), nn.Module) else network  # type: ignore[return-value]


def _parts(tapped: Any) -> tuple[type[ClassHead] | None, nn.Module, tuple[str, ...]]:
    """How the class head of a network is called, the head, and the knowledge that it reads; None for an unknown one."""
    network = tapped.network
    if isinstance(network, Detector):
        levels = sorted((n for n in tapped.shapes if n.startswith(PYRAMID)), key=lambda n: int(n[len(PYRAMID) :]))
        kind = _OfPriors if network.kind == "priors" else _OfAnchors
        return kind, network.head.classification_head, tuple(levels)
    if isinstance(network, SmallSegmenter):
        return _OfTwoMaps, network.head, ("low", "feat")
    if isinstance(network, DeepLabV3Plus):
        return _OfTwoMaps, AtrousDecoder(network), ("low", "feat")
    classifier = getattr(network, "classifier", None)
    if not isinstance(classifier, nn.Module) or "feat" not in tapped.shapes:
        return None, network, ()
    if type(network).__name__ == "LRASPP":
        return _OfNamedMaps, classifier, ("low", "feat")
    return _OfOneMap, classifier, ("feat",)
