"""Networks that give every pixel its classes: where their knowledge is read, torchvision's, and small ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.errors import ModelError, meant
from kdzero_gp.models import discovery
from kdzero_gp.models.discovery import Call, Trace
from kdzero_gp.models.external import extra_package, from_user_code, must_be_colour
from kdzero_gp.models.layers import Factory, separable, stem
from kdzero_gp.models.outputs import leaves
from kdzero_gp.models.taps import LayerHook, Store, must_have_layer

OUTPUT = ""
"""The layer name of what the network itself returns."""
INPUT_SUFFIX = ":input"
KNOWLEDGE = ("logits", "feat", "low", "aux")
TOLERANCE = 1e-3
"""How far an enlarged map may be from the network's output, relative to its largest value, to be what it came from."""
MOST_CLASSES = 255
"""Label maps are 8-bit images, in which one value is ignored."""


class TappedMaps(Store, nn.Module):
    """A network whose forward pass returns its knowledge as maps: ``logits`` N×K×h×w *before* they are enlarged to the
    image, ``feat`` (what the backbone gives), and ``low`` and ``aux`` where it has them.

    ``taps`` names layers by hand, as in ``{"feat": "encoder", "feat1": "encoder.2"}``; a suffix ``:input`` reads what
    goes into a layer. Attributes as of ``Tapped``: ``network``, ``taps``, ``shapes`` and ``note``. Raises ModelError
    where no output has as many channels as there are classes, or a layer does not exist or gives no map.
    """

    def __init__(self, network: nn.Module, example: Tensor, taps: Mapping[str, str] | None, classes: int):
        super().__init__()
        if classes > MOST_CLASSES:
            raise ModelError(f"label maps have at most {MOST_CLASSES} classes and the data have {classes}; merge some")
        self.network, self.note = network, ""
        trace = _run(network, example)
        self.output = main_output(network, trace.output, classes)
        self.taps = _found(network, trace, classes, self.output) | _checked(network, dict(taps or {}))
        self.handles = []
        for name, layer in self.taps.items():
            if layer != OUTPUT:
                self.handles.append(_watch(network, name, layer, self))
        with discovery.left_as_found(network, example.device):
            outputs = self(trace.example)
        for name, tensor in outputs.items():
            if tensor.dim() != 4:
                raise ModelError(
                    f"the tap {name}={self.taps[name]} gives shape {tuple(tensor.shape)} and a map is N×C×H×W; name "
                    f"another layer, as in --student-tap {name}=backbone"
                )
        self.shapes = {name: tuple(tensor.shape[1:]) for name, tensor in outputs.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The knowledge of images N×C×H×W in the order of ``taps``."""
        self.tensors = tensors = {}
        try:
            output = self.network(images)
        finally:
            self.tensors = None
        if self.taps["logits"] == OUTPUT:
            tensors["logits"] = dict(leaves(output))[self.output]
        missing = [name for name in self.taps if name not in tensors]
        if missing:
            raise ModelError(f"the layer {self.taps[missing[0]]!r} of the tap {missing[0]!r} did not run; name another")
        return {name: tensors[name] for name in self.taps}

    def untap(self) -> nn.Module:
        """Takes the hooks off and returns the network as it was given."""
        for handle in self.handles:
            handle.remove()
        return self.network


def _watch(network: nn.Module, name: str, layer: str, store: TappedMaps) -> Any:
    """A hook on ``layer``, ``layer:input`` or ``layer:key`` (an entry of the mapping that it gives)."""
    bare, _, key = layer.partition(":")
    reads_input = key == INPUT_SUFFIX[1:]
    hook = LayerHook(store, name, reads_input, "" if reads_input else key)
    return network.get_submodule(bare).register_forward_hook(hook)


def _checked(network: nn.Module, taps: dict[str, str]) -> dict[str, str]:
    for name, layer in taps.items():
        if name not in KNOWLEDGE and not (name.startswith("feat") and name[4:].isdecimal()):
            raise ModelError(f"there is no knowledge {name!r}; a tap is named {', '.join(KNOWLEDGE)}, feat1, feat2, …")
        must_have_layer(network, name, layer.partition(":")[0])
    return taps


def _run(network: nn.Module, example: Tensor) -> Trace:
    try:
        return discovery.run(network, example)
    except ModelError as error:
        raise ModelError(f"{error}; images are {tuple(example.shape[1:])} here") from error


def main_output(network: nn.Module, output: Any, classes: int) -> tuple[Any, ...]:
    """Where in what a network returns the map of class scores is: ``out`` or the first of so many channels."""
    maps = {path: tensor for path, tensor in leaves(output) if tensor.dim() == 4}
    fitting = [path for path, tensor in maps.items() if tensor.shape[1] == classes]
    if not fitting:
        given = " and ".join(str(tuple(tensor.shape[1:])) for _, tensor in leaves(output)) or type(output).__name__
        raise ModelError(
            f"{type(network).__name__} gives {given} for each image and the data have {classes} classes; build it with "
            f"{classes} classes, so that it gives ({classes}, height, width)"
        )
    return min(fitting, key=lambda path: "out" not in path)


def _enlargements(tensor: Tensor, size: tuple[int, ...]) -> Iterator[Tensor]:
    for mode, corners in (("bilinear", False), ("bilinear", True), ("bicubic", False), ("nearest", None)):
        yield F.interpolate(tensor, size, mode=mode, align_corners=corners)


def _found(network: nn.Module, trace: Trace, classes: int, path: tuple[Any, ...]) -> dict[str, str]:
    """Where logits, feat, low and aux are read."""
    output = dict(leaves(trace.output))[path]
    calls = [call for call in trace.calls if call.name and call.output.dim() == 4]
    scored = [call for call in calls if call.output.shape[1] == classes]
    source = next((call for call in reversed(scored) if _gives(call, output)), None)
    taps = {"logits": source.name if source else OUTPUT}
    mapping = _backbone_maps(network, trace)
    if mapping:
        return taps | mapping
    head = next((call for call in reversed(scored) if call.is_leaf and call.input is not None), None)
    return taps | ({"feat": head.name + INPUT_SUFFIX} if head and head.input is not None else {})


def _gives(call: Call, output: Tensor) -> bool:
    """Whether the output is a smaller map of a layer, enlarged."""
    small, size = call.output.float(), tuple(output.shape[2:])
    if small.shape[2] >= size[0] or small.shape[3] >= size[1]:
        return False
    bound = TOLERANCE * float(output.abs().max()) + 1e-6
    return any(float((grown - output).abs().max()) < bound for grown in _enlargements(small, size))


def _backbone_maps(network: nn.Module, trace: Trace) -> dict[str, str]:
    """The entries of what ``backbone`` returns, as torchvision's segmenters name them."""
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return {}
    with discovery.left_as_found(network, trace.example.device):
        given = backbone(trace.example)
    if not isinstance(given, Mapping):
        return {}
    names = {"out": "feat", "high": "feat", "low": "low", "aux": "aux"}
    return {names[key]: f"backbone:{key}" for key in given if key in names}


# --- networks -----------------------------------------------------------------------------------------------


class SmallSegmenter(nn.Module):
    """Stride 4 and 8, dilated context, and the sum of a low and a high classifier as in LR-ASPP.

    Images N×C×H×W to logits N×K×H×W, enlarged from a quarter of that.
    """

    def __init__(self, width: int, classes: int, channels: int = 3):
        super().__init__()
        self.low = nn.Sequential(
            *stem(channels, width), separable(width, 2 * width, 2), separable(2 * width, 2 * width)
        )
        self.high = nn.Sequential(
            separable(2 * width, 4 * width, 2),
            separable(4 * width, 4 * width, 1, 2),
            separable(4 * width, 4 * width, 1, 4),
        )
        self.head = SumOfClassifiers(2 * width, 4 * width, classes)
        self.backbone = _Backbone(self.low, self.high)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel."""
        maps = self.backbone(images)
        return F.interpolate(
            self.head(maps["low"], maps["out"]), images.shape[2:], mode="bilinear", align_corners=False
        )


class _Backbone(nn.Module):
    """Two parts in a row, and what each gives."""

    def __init__(self, low: nn.Module, high: nn.Module):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low = self.low(images)
        return {"out": self.high(low), "low": low}


class SumOfClassifiers(nn.Module):
    """Logits of the high map, enlarged, plus those of the low one."""

    def __init__(self, low: int, high: int, classes: int):
        super().__init__()
        self.low_classifier = nn.Conv2d(low, classes, 1)
        self.high_classifier = nn.Conv2d(high, classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        grown = F.interpolate(self.high_classifier(high), low.shape[2:], mode="bilinear", align_corners=False)
        return self.low_classifier(low) + grown


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611) on torchvision's MobileNetV2 at stride 16: atrous pyramid, then a
    decoder at stride 4. ``backbone.features`` takes torchvision's ImageNet weights."""

    LOW, LOW_CHANNELS, HIGH_CHANNELS = 3, 24, 320

    def __init__(self, classes: int, channels: int = 3):
        super().__init__()
        must_be_colour("deeplabv3plus_mobilenet_v2", channels)
        models = extra_package("torchvision.models", "deeplabv3plus_mobilenet_v2")
        from torchvision.models.segmentation.deeplabv3 import ASPP

        features = models.mobilenet_v2(weights=None).features[:18]
        _dilate(features[14:], 2)
        self.backbone = _Stages(features, self.LOW)
        self.pyramid = ASPP(self.HIGH_CHANNELS, [3, 6, 9], 128)
        self.reduce = nn.Sequential(nn.Conv2d(self.LOW_CHANNELS, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.decoder = nn.Sequential(separable(160, 128), separable(128, 128))
        self.classifier = nn.Conv2d(128, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel."""
        maps = self.backbone(images)
        logits = _decoded(self, maps["low"], maps["out"])
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


class AtrousDecoder(nn.Module):
    """A DeepLabV3+ without its backbone: two maps to logits, by the same layers."""

    def __init__(self, network: DeepLabV3Plus):
        super().__init__()
        self.pyramid, self.reduce = network.pyramid, network.reduce
        self.decoder, self.classifier = network.decoder, network.classifier

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Logits at the size of the low map."""
        return _decoded(self, low, high)


def _decoded(layers: DeepLabV3Plus | AtrousDecoder, low: Tensor, high: Tensor) -> Tensor:
    low = layers.reduce(low)
    high = F.interpolate(layers.pyramid(high), low.shape[2:], mode="bilinear", align_corners=False)
    logits: Tensor = layers.classifier(layers.decoder(torch.cat([high, low], dim=1)))
    return logits


class _Stages(nn.Module):
    """MobileNetV2's layers under their own names, and two of their maps."""

    def __init__(self, features: nn.Sequential, low: int):
        super().__init__()
        self.features, self.end_of_low = features, low

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low = self.features[: self.end_of_low + 1](images)
        return {"out": self.features[self.end_of_low + 1 :](low), "low": low}


def _dilate(layers: nn.Module, dilation: int) -> None:
    """Depthwise convolutions without stride, and with the same view as before."""
    for module in layers.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            if module.stride == (2, 2):
                module.stride = (1, 1)
            else:
                module.dilation, module.padding = (dilation, dilation), (dilation, dilation)


NETWORKS: dict[str, Factory] = {
    "segmenter_32": partial(SmallSegmenter, 32),
    "segmenter_16": partial(SmallSegmenter, 16),
    "segmenter_8": partial(SmallSegmenter, 8),
    "segmenter_4": partial(SmallSegmenter, 4),
    "deeplabv3plus_mobilenet_v2": DeepLabV3Plus,
}


def build(name: str, classes: int, channels: int = 3) -> nn.Module:
    """A new network with random weights: a built-in name, a name of torchvision's segmenters (with or without
    ``torchvision:``), or ``module:callable``. Raises ModelError."""
    if name in NETWORKS:
        return NETWORKS[name](classes, channels)
    library, colon, rest = name.partition(":")
    if colon and library != "torchvision":
        return from_user_code(name, classes)
    wanted = rest if colon else name
    known = _torchvision_names()
    if wanted not in known:
        hint = meant(wanted, [*NETWORKS, *known], f"built in are {', '.join(NETWORKS)};")
        raise ModelError(
            f"there is no segmentation network {name!r}: {hint} torchvision's deeplabv3_…, fcn_… and lraspp_… and "
            "module:callable work too"
        )
    must_be_colour(wanted, channels)
    models = extra_package("torchvision.models", wanted)
    network: nn.Module = models.get_model(wanted, weights=None, weights_backbone=None, num_classes=classes)
    return network


def _torchvision_names() -> list[str]:
    try:
        from torchvision import models
    except ImportError:
        return []
    return list(models.list_models(module=models.segmentation))
