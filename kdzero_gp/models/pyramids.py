"""Feature pyramids (Lin et al. 2017, arXiv:1612.03144) on any of torchvision's classifiers, and on a small backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from kdzero_gp.errors import ModelError
from kdzero_gp.models.external import extra_package
from kdzero_gp.models.layers import separable, stem

STRIDES = (8, 16, 32)
PROBED = 64
"""Pixels a side of the image with which strides are found; a multiple of the coarsest stride."""


def pyramid(stages: nn.Module, channels: int, strides: Sequence[int] = STRIDES) -> nn.Module:
    """``stages`` one after the other, of which the last at each stride feeds a pyramid of maps with so many channels;
    ``body`` holds the stages under their own names. Raises ModelError where a stride is not reached."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    found = _last_at(stages, strides)
    missing = [stride for stride in strides if stride not in found]
    if missing:
        raise ModelError(f"a backbone has no layer at stride {missing[0]}, which detectors need; name another")
    layers = {found[stride][0]: str(level) for level, stride in enumerate(strides)}
    built = BackboneWithFPN(stages, layers, [found[stride][1] for stride in strides], channels)
    built.fpn.extra_blocks = None  # coarser levels are for images of 800 pixels
    return built  # type: ignore[no-any-return]


def _last_at(stages: nn.Module, strides: Sequence[int]) -> Mapping[int, tuple[str, int]]:
    """The name and the channels of the last child at each stride."""
    first = next(stages.parameters())
    value = torch.zeros(1, first.shape[1], PROBED, PROBED)
    found: dict[int, tuple[str, int]] = {}
    stages.eval()
    with torch.no_grad():
        for name, stage in stages.named_children():
            try:
                value = stage(value)
            except RuntimeError:
                break  # a classifier behind the stages
            if value.dim() != 4 or value.shape[2] < PROBED // max(strides):
                break
            found[PROBED // value.shape[2]] = (name, value.shape[1])
    stages.train()
    return found


def backbone_named(name: str, channels: int) -> nn.Module:
    """A pyramid on torchvision's classifier of this name, with random weights. Raises ModelError."""
    models = extra_package("torchvision.models", name)
    classifiers = models.list_models(module=models)
    if name not in classifiers:
        raise ModelError(
            f"torchvision has no classifier {name!r} to be a backbone; there are resnet18, mobilenet_v2, …"
        )
    network = models.get_model(name, weights=None)
    return pyramid(getattr(network, "features", network), channels)


class SmallStages(nn.Sequential):
    """Depthwise blocks to stride 32: few parameters and operations."""

    def __init__(self, width: int, channels: int = 3):
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        first = nn.Sequential(*stem(channels, width))
        super().__init__(first, *(nn.Sequential(separable(a, b, 2), separable(b, b)) for a, b in pairwise(widths)))
