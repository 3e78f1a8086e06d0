"""Cuts a network in two at the end of a stage, so that what comes before can be computed once and kept."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx, nn

from kdzero_gp.data.inputs import Inputs
from kdzero_gp.errors import ModelError
from kdzero_gp.models.discovery import left_as_found
from kdzero_gp.models.taps import FEATURE_NAME, INPUT_SUFFIX, Tapped

# The two halves may differ from the whole network's outputs by rounding, relative to their largest value.
TOLERANCE = 1e-4


class Trunk(nn.Module):
    """What comes before a cut: images N×C×H×W to ``maps``, the output of the layer at the cut."""

    def __init__(self, stages: nn.Module):
        super().__init__()
        self.stages = stages

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"maps": self.stages(images)}


def halves(network: nn.Module, cut: str, taps: Mapping[str, str]) -> tuple[Trunk, nn.Module]:
    """The parts of ``network`` up to the end of the layer ``cut`` and after it. They share its parameters and the
    names of its layers. Raises ModelError where something passes the cut by, or torch.fx cannot follow the network."""
    nodes = _traced(network, {cut} | {layer.removesuffix(INPUT_SUFFIX) for layer in taps.values() if layer})
    at = next((i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == cut), None)
    if at is None:
        raise ModelError(f"{type(network).__name__} cannot be cut at {cut!r}: it is inside of a layer that is read")
    before, after = fx.Graph(), fx.Graph()
    upper: dict[fx.Node, fx.Node] = {}
    for node in nodes[: at + 1]:
        upper[node] = before.node_copy(node, upper.__getitem__)
    before.output(upper[nodes[at]])
    lower = {nodes[at]: after.placeholder("maps")}
    try:
        for node in nodes[at + 1 :]:
            lower[node] = after.node_copy(node, lower.__getitem__)
    except KeyError as error:
        raise ModelError(
            f"{type(network).__name__} cannot be cut at {cut!r}: {error.args[0]} from before it is used after it"
        ) from None
    return Trunk(fx.GraphModule(network, before)), fx.GraphModule(network, after)


def find_cut(network: Tapped, kept: Collection[str], images: Inputs) -> tuple[str, dict[str, str]]:
    """The layer that ends the last stage before all knowledge in ``kept``, and the taps of what comes after it.
    Raises ModelError where there is none, or the halves do not give what ``network`` gives on ``images``."""
    plain, name = network.network, type(network.network).__name__
    if not isinstance(images, Tensor):
        raise ModelError(f"{name} takes several inputs, which a cut cannot follow")
    order = sorted((tap for tap in network.taps if FEATURE_NAME.fullmatch(tap)), key=_place)
    first = min((_place(tap) for tap in kept if tap in order), default=0.0)
    before = [tap for tap in order if _place(tap) < first]
    if not before:
        raise ModelError(f"{name} has no stage before what distillers read")
    cut = network.taps[before[-1]]
    taps = {tap: _after(plain, cut, network.taps[tap]) for tap in kept}
    trunk, tail = halves(plain, cut, taps)
    with left_as_found(plain, images.device):
        maps = trunk(images)["maps"]
        whole, found = network(images), Tapped(tail, maps, taps)(maps)
    for tap in kept:
        if found[tap].shape != whole[tap].shape or not _near(found[tap], whole[tap]):
            raise ModelError(f"{name} cannot be cut at {cut!r}: {tap} comes out differently")
    return cut, taps


def _place(tap: str) -> float:
    """Where a feature stands: feat1, feat2, …, feat."""
    return float("inf") if tap == "feat" else float(tap[4:])


def _after(network: nn.Module, cut: str, layer: str) -> str:
    """A tapped layer, or the last one inside of it where it is a sequence that contains the cut."""
    while layer and cut.startswith(layer + ".") and isinstance(network.get_submodule(layer), nn.Sequential):
        layer += "." + list(network.get_submodule(layer)._modules)[-1]
    return layer


class _Tracer(fx.Tracer):
    """Follows only what contains one of some layers; all else stays in one piece, with its hooks and names."""

    def __init__(self, layers: Collection[str]):
        super().__init__()
        self.layers = layers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(layer.startswith(module_qualified_name + ".") for layer in self.layers)


def _traced(network: nn.Module, layers: Collection[str]) -> list[fx.Node]:
    """The operations of a network in order, those of ``layers`` among them.

    Traced in training mode, since what then depends on the mode shows when halves are compared in evaluation mode.
    """
    try:
        with left_as_found(network, torch.device("cpu")):
            return list(_Tracer(layers).trace(network.train()).nodes)
    except Exception as error:  # networks may do anything that cannot be traced
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{type(network).__name__} cannot be followed by torch.fx: {first}") from None


def _near(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())
