"""Detectors as one function of images: torchvision's, those on any backbone, small ones, and the user's own.

torchvision's detectors give losses in training mode and boxes in evaluation mode, never both, and each resizes images
by itself. Here backbone and heads are called on images as they are, and all that they say comes out, in both modes:
losses and detections follow from it (``kdzero_gp.families.detection``), and a teacher's maps lie over a student's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.compiler.knowledge import PYRAMID
from kdzero_gp.errors import ModelError, meant
from kdzero_gp.models import discovery
from kdzero_gp.models.external import extra_package, from_user_code, must_be_colour, unknown
from kdzero_gp.models.geometry import SCALES
from kdzero_gp.models.levels import KINDS, Outputs, completed, named_levels
from kdzero_gp.models.pyramids import SmallStages, backbone_named, pyramid
from kdzero_gp.models.two_stage import TwoStageDetector

OCTAVES = tuple(2 ** (third / 3) for third in range(3))
ANCHOR_STRIDES = 2.0
"""A level's smallest anchor in strides. (torchvision's 4 are for images of 800 pixels.)"""
HEAD_GROUPS = 8
"""Groups of the norms in small heads, which see few images at a time."""
TORCHVISION_GROUPS = 32
REGION_SIDE, REGION_FACTOR = 5, 2
"""Places a side of a region, and numbers of it in channels of the pyramid, in small second stages."""


class Detector(nn.Module):
    """One of torchvision's one-stage detectors, with its parts under their own names, so that weights fit both.

    Images N×3×H×W to ``fpnK`` (the level at stride 2^K, N×C×h×w), ``logits`` N×K×M of all anchors, ``deltas`` N×4×M,
    ``anchors``, ``priors`` or ``points`` N×4×M in pixels, ``centreness`` N×1×M with points, ``boxes`` and ``grid``
    (the anchors as boxes) N×4×M as shares of the image, and ``size`` N×1×2 (height and width).
    """

    names_outputs = True

    def __init__(self, network: nn.Module):
        super().__init__()
        self.backbone: Any = network.backbone
        self.head: Any = network.head
        self.anchor_generator: Any = network.anchor_generator
        self.kind = _kind_of(network)
        self.known: dict[Any, Tensor] = {}

    def forward(self, images: Tensor) -> Outputs:
        """All that the detector says of images."""
        maps = self.backbone(images)
        levels = [maps] if isinstance(maps, Tensor) else list(maps.values())
        said = self.head(levels)
        logits, deltas = said["cls_logits"].transpose(1, 2).float(), said["bbox_regression"].transpose(1, 2).float()
        if self.kind == "priors":
            # of a softmax only differences count: the background is 0
            logits = logits[:, 1:] - logits[:, :1]
            deltas = deltas / torch.tensor(SCALES, device=deltas.device)[:, None]
        places = self._places(images, levels)
        outputs = named_levels(images, levels) | {"logits": logits, "deltas": deltas, self.kind: places}
        if "bbox_ctrness" in said:
            outputs["centreness"] = said["bbox_ctrness"].transpose(1, 2).float()
        return completed(outputs, images)

    def _places(self, images: Tensor, levels: list[Tensor]) -> Tensor:
        """Anchors N×4×M, computed once for each size."""
        key = (tuple(images.shape[2:]), tuple(tuple(level.shape[2:]) for level in levels), images.device)
        if key not in self.known:
            from torchvision.models.detection.image_list import ImageList

            one = ImageList(images[:1], [(images.shape[2], images.shape[3])])
            with torch.no_grad():
                self.known[key] = self.anchor_generator(one, levels)[0].float().transpose(0, 1).contiguous()
        return self.known[key].expand(len(images), -1, -1)


def _kind_of(network: nn.Module) -> str:
    from torchvision.models import detection

    kinds = {detection.RetinaNet: "anchors", detection.FCOS: "points", detection.ssd.SSD: "priors"}
    return next(kind for form, kind in kinds.items() if isinstance(network, form))


class OwnDetector(nn.Module):
    """A user's detector of another library or by hand: its ``forward(images)`` gives, in training and evaluation,
    ``logits`` N×K×M, ``deltas`` N×4×M, one of ``anchors``, ``priors`` and ``points`` 4×M or N×4×M in pixels (see
    ``KINDS``), ``centreness`` N×1×M with points, and maps, a list from fine to coarse as ``levels``."""

    names_outputs = True

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Outputs:
        """What ``Detector`` gives."""
        said = self.network(images)
        kind = next((kind for kind in KINDS if isinstance(said, Mapping) and kind in said), None)
        missing = [name for name in ("logits", "deltas", "levels") if kind is None or name not in said]
        if missing or (kind == "points" and "centreness" not in said):
            raise ModelError(
                f"{type(self.network).__name__} is not a detector of torchvision and gives no "
                f"{missing[0] if missing else 'centreness'}; let it give logits N×K×M, deltas N×4×M, anchors 4×M in "
                "pixels and a list of maps as levels"
            )
        assert kind is not None
        tensors = {name: said[name].float() for name in ("logits", "deltas", "centreness") if name in said}
        places = said[kind].float()
        tensors[kind] = places if places.dim() == 3 else places.expand(len(images), -1, -1)
        return completed(named_levels(images, list(said["levels"])) | tensors, images)


def as_detector(network: nn.Module) -> nn.Module:
    """Any detector as a function of images. Raises ModelError for one of another kind."""
    if isinstance(network, Detector | TwoStageDetector | OwnDetector):
        return network
    if all(hasattr(network, name) for name in ("backbone", "rpn", "roi_heads")):
        return TwoStageDetector(network)
    parts = [name for name in ("backbone", "head", "anchor_generator") if hasattr(network, name)]
    if len(parts) == 3:
        try:
            return Detector(network)
        except StopIteration:
            pass
    return OwnDetector(network)


class TappedDetector(nn.Module):
    """A detector with its knowledge as outputs. Attributes as of ``Tapped``: ``network``, ``taps``, ``shapes`` and
    ``note``. Raises ModelError where it gives no class scores for the classes of the data."""

    def __init__(self, network: nn.Module, example: Tensor, taps: Mapping[str, str] | None, classes: int):
        super().__init__()
        if taps:
            raise ModelError(
                f"a detector's levels and scores are found by themselves, so the tap {next(iter(taps))} cannot be "
                "named; leave the taps out, and name levels with --knowledge"
            )
        self.network, self.note = as_detector(network), ""
        with discovery.left_as_found(self.network, example.device):
            self.network.to(example.device).eval()
            outputs = self.network(example)
        given = outputs["logits"].shape[1] if "logits" in outputs else outputs["region_logits"].shape[1] - 1
        if given != classes:
            raise ModelError(
                f"{type(network).__name__} tells {given} classes apart and the data have {classes}; build it for "
                f"{classes}"
            )
        self.shapes = {name: tuple(tensor.shape[1:]) for name, tensor in outputs.items()}
        known = ("logits", "objectness", "deltas", "boxes", "grid", "proposals", "regions", "region_logits")
        self.taps = {name: "" for name in outputs if name.startswith(PYRAMID) or name in known}

    def forward(self, images: Tensor, *proposals: Tensor) -> Outputs:
        """All that the detector says; a second stage of these ``proposals`` where they are given."""
        return self.network(images, *proposals)  # type: ignore[no-any-return]

    def untap(self) -> nn.Module:
        """The network."""
        return self.network


# --- networks -----------------------------------------------------------------------------------------------


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(HEAD_GROUPS, channels)


def retinanet(backbone: Any, classes: int) -> nn.Module:
    """RetinaNet (Lin et al. 2017, arXiv:1708.02002) on a pyramid, with anchors for images of a few hundred pixels."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead

    strides = _strides(backbone)
    sizes = tuple(tuple(ANCHOR_STRIDES * stride * octave for octave in OCTAVES) for stride in strides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    head = RetinaNetHead(backbone.out_channels, 9, classes, _norm)
    return RetinaNet(backbone, classes, anchor_generator=anchors, head=head)  # type: ignore[no-any-return]


def fcos(backbone: Any, classes: int) -> nn.Module:
    """FCOS (Tian et al. 2019, arXiv:1904.01355) on a pyramid."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

    sizes = tuple((stride,) for stride in _strides(backbone))
    width = backbone.out_channels
    head = FCOSHead(TORCHVISION_GROUPS, 1, classes)  # its own norms take multiples of that; both parts are replaced
    head.classification_head = FCOSClassificationHead(width, 1, classes, norm_layer=_norm)
    head.regression_head = FCOSRegressionHead(width, 1, norm_layer=_norm)
    anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
    return FCOS(backbone, classes, anchor_generator=anchors, head=head)  # type: ignore[no-any-return]


def fasterrcnn(backbone: Any, classes: int) -> nn.Module:
    """Faster R-CNN on a pyramid, with anchors for images of a few hundred pixels and a small second stage."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    strides = _strides(backbone)
    sizes = tuple((2 * ANCHOR_STRIDES * stride,) for stride in strides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], REGION_SIDE, 2)
    width = REGION_FACTOR * backbone.out_channels
    head = TwoMLPHead(backbone.out_channels * REGION_SIDE**2, width)
    return FasterRCNN(  # type: ignore[no-any-return]
        backbone, rpn_anchor_generator=anchors, box_roi_pool=pool, box_head=head,
        box_predictor=FastRCNNPredictor(width, classes + 1),
    )  # fmt: skip


def _strides(backbone: Any) -> list[int]:
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 128, 128))
    backbone.train()
    return [128 // level.shape[2] for level in maps.values()]


HEADS: Mapping[str, Callable[[Any, int], nn.Module]] = {
    "retinanet": retinanet, "fcos": fcos, "fasterrcnn": fasterrcnn
}  # fmt: skip
SMALL_FACTOR, FPN_CHANNELS = 4, 96
"""Channels of a pyramid on a small backbone, in widths, and on one of torchvision's: fewer than the usual 256, so that
a CPU can train."""
BUILT_IN = re.compile(rf"({'|'.join(HEADS)})_(?:small_(\d+)|(\w+))")


def build(name: str, classes: int, channels: int = 3) -> nn.Module:
    """A new detector with random weights: ``HEAD_small_WIDTH`` or ``HEAD_BACKBONE`` with one of torchvision's
    classifiers and a head out of retinanet, fcos and fasterrcnn, as in ``fcos_mobilenet_v2``; ``torchvision:NAME`` with
    one of its detectors; or ``module:callable``. Raises ModelError."""
    models = extra_package("torchvision.models", name)
    must_be_colour(name, channels)
    library, colon, rest = name.partition(":")
    if library == "torchvision" and colon:
        return as_detector(_of_torchvision(models, rest, classes))
    if colon:
        return as_detector(from_user_code(name, classes))
    found = BUILT_IN.fullmatch(name)
    if found is None:
        hint = meant(name, models.list_models(module=models.detection), prefix="torchvision:")
        raise ModelError(
            f"there is no detector {name!r}: {hint}{' ' if hint else ''}there are retinanet_small_16, "
            "fcos_mobilenet_v2 and the like, torchvision:NAME and module:callable"
        )
    head, width, backbone = found.groups()
    if width:
        built = pyramid(SmallStages(int(width)), max(16, SMALL_FACTOR * int(width)))
    else:
        built = backbone_named(backbone, FPN_CHANNELS)
    return as_detector(HEADS[head](built, classes))


def _of_torchvision(models: Any, name: str, classes: int) -> nn.Module:
    known = models.list_models(module=models.detection)
    if name not in known:
        raise unknown("torchvision", name, known)
    background = not name.startswith(("retinanet", "fcos"))
    make = partial(models.get_model, name, weights=None, weights_backbone=None)
    return make(num_classes=classes + background)  # type: ignore[no-any-return]
