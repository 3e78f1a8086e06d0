"""Finds the taps of any network by running it once and looking at what every layer returns.

The last map of a resolution is not simply the last tensor of that size: blocks that change the resolution
make wider tensors of the old size inside, activations and normalisations follow the stage, a stem and
poolings stand between. The rules here are few and each has its comment; a user who wants something else names
the layer.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.data.inputs import Inputs, NamedInputs, forward, shape_text
from kdzero_gp.errors import ModelError

PROBE_SAMPLES = 2
"""So many samples show every shape; more would only keep more activations in memory."""

ELEMENTWISE_FILES = (
    "torch.nn.modules.activation",
    "torch.nn.modules.batchnorm",
    "torch.nn.modules.dropout",
    "torch.nn.modules.instancenorm",
    "torch.nn.modules.normalization",
)
"""Where torch keeps the layers that act on each value or channel alone and belong to the layer before."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one layer in a trace: its name, module, first input and output (the tensors themselves).

    ``square`` tells that the image was square; then its maps are too.
    """

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor
    square: bool

    @property
    def is_leaf(self) -> bool:
        """Whether the layer has no layers inside."""
        return not any(self.module.children())

    @property
    def is_pooling(self) -> bool:
        """Whether the layer pools, by its class name: torch, timm and users agree on this word."""
        return self.is_leaf and "pool" in type(self.module).__name__.lower()

    @property
    def is_elementwise(self) -> bool:
        """Whether the layer is an activation, normalisation, dropout or identity."""
        kind = type(self.module)
        return self.is_leaf and (kind.__module__ in ELEMENTWISE_FILES or isinstance(self.module, nn.Identity))

    @property
    def resolution(self) -> tuple[int, ...]:
        """Height and width of the output map."""
        return resolution(self.output, self.square)

    @property
    def input_resolution(self) -> tuple[int, ...] | None:
        """Height and width of the input map, or None when the input is no map."""
        if self.input is None or self.input.dim() != 4:
            return None
        return resolution(self.input, self.square)

    def is_inside(self, other: "Call") -> bool:
        """Whether the layer is a part of the ``other`` layer."""
        return self.name.startswith(other.name + ".")


@dataclass(frozen=True)
class Trace:
    """What one run showed: every call in order of completion, the example and what the network returned."""

    calls: tuple[Call, ...]
    example: Inputs
    output: Any
    counts: Counter[str]

    @property
    def image(self) -> Tensor | None:
        """The example's images N×C×H×W, or None where it has none."""
        return image_in(self.example)

    @property
    def square(self) -> bool:
        """Whether the example has an image that is square."""
        return is_square(self.image)

    def last(self, name: str) -> Call | None:
        """The last call of the layer ``name``, or None when it did not run or returned no tensor."""
        return next((call for call in reversed(self.calls) if call.name == name), None)


def image_in(example: Inputs) -> Tensor | None:
    """The images N×C×H×W among the inputs, or None."""
    first = example.first if isinstance(example, NamedInputs) else example
    return first if first.dim() == 4 else None


def is_square(image: Tensor | None) -> bool:
    """Whether there is an image and it is square."""
    return image is not None and image.shape[-1] == image.shape[-2]


def is_channels_last(image: Tensor, square: bool) -> bool:
    """Whether a map of a square image is N×H×W×C, as in Swin: two equal axes first, another one last."""
    return square and image.shape[1] == image.shape[2] != image.shape[3]


def resolution(image: Tensor, square: bool) -> tuple[int, ...]:
    """Height and width of a map in either layout."""
    return tuple(image.shape[1:3] if is_channels_last(image, square) else image.shape[2:])


@contextmanager
def left_as_found(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradient; afterwards modes, buffers and generators are as before."""
    modes = {module: module.training for module in network.modules()}
    buffers = {buffer: buffer.clone() for buffer in network.buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            network.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def run(network: nn.Module, example: Inputs) -> Trace:
    """Runs the network once on at most two samples of ``example`` (N×…, or several by name) and records all outputs.

    Raises ModelError when the network cannot take such inputs.
    """
    parameter = next(network.parameters(), None)
    device = example.device if parameter is None else parameter.device
    # A copy, because a network may overwrite its input.
    example = example[:PROBE_SAMPLES].detach().to(device, copy=True)
    square = is_square(image_in(example))
    calls: list[Call] = []
    counts: Counter[str] = Counter()

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            counts[name] += 1
            if isinstance(output, Tensor):
                first = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
                calls.append(Call(name, module, first, output, square))

        return record

    named = [(name, module) for name, module in network.named_modules() if name]
    handles = [module.register_forward_hook(recorder(name)) for name, module in named]
    try:
        with left_as_found(network, device):
            output = forward(network, example)
    except Exception as error:  # A network may fail in any way on images that it was not made for.
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{type(network).__name__} cannot take {_noun(example)} of shape {_shape(example)} "
            f"({type(error).__name__}: {first}); choose another network or image size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return Trace(tuple(calls), example, output, counts)


def _noun(example: Inputs) -> str:
    return "inputs" if image_in(example) is None else "images"


def _shape(example: Inputs) -> str:
    return shape_text(example) if isinstance(example, NamedInputs) else str(tuple(example.shape[1:]))


def classifier(trace: Trace, logits: Tensor) -> Call | None:
    """The last linear layer that gave the network's output, or one of its shape if the output was changed; without one
    a layer of another kind, or the last convolution with as many channels as there are logits."""
    linear = [call for call in trace.calls if isinstance(call.module, nn.Linear)]
    exact = [call for call in linear if call.output is logits]
    alike = [call for call in linear if call.output.shape == logits.shape]
    learnt = [call for call in trace.calls if call.is_leaf and next(call.module.parameters(), None) is not None]
    custom = [c for c in learnt if c.output is logits and c.input is not None and c.input.dim() == 2]
    pooled = [c for c in learnt if c.output.dim() == 4 and c.output.shape[1] == logits.shape[1]]
    pooled = pooled if learnt and pooled[-1:] == learnt[-1:] else []  # what runs after it would be the classifier
    return next(reversed(exact or alike or custom or pooled), None)


def is_normalised_by(call: Call, logits: Tensor) -> bool:
    """Whether the network returns the (log-)softmax of this layer's output in place of the logits."""
    if call.output.shape != logits.shape or call.output is logits:
        return False
    with torch.no_grad():
        forms = (call.output.softmax(-1), call.output.log_softmax(-1))
        return any(torch.allclose(form, logits, atol=1e-5) for form in forms)


def _maps(trace: Trace) -> list[Call]:
    """The calls that return feature maps: once per layer, neither pooled nor gates nor the image itself."""
    batch, image = len(trace.example), trace.image
    pooled = {id(call.output) for call in trace.calls if call.is_pooling}

    def is_map(call: Call) -> bool:
        shape = call.output.shape
        return (
            len(shape) == 4
            and shape[0] == batch
            and (image is None or shape[1:] != image.shape[1:])
            and id(call.output) not in pooled  # A stage that ends with a pooling ends, for us, before it.
            and trace.counts[call.name] == 1  # A layer that runs twice cannot be read by its name.
            and (not call.square or call.resolution[0] == call.resolution[1])  # Windows of attention are no maps.
        )

    maps = [call for call in trace.calls if is_map(call)]
    spatial = [call for call in maps if max(call.resolution) > 1]
    stages = [call for call in spatial if not call.is_leaf]

    def is_stage(call: Call) -> bool:
        # One pixel is left of small images; but one pixel inside a block is a gate, and a layer a classifier.
        return not call.is_leaf and not any(call.is_inside(stage) for stage in stages)

    return [call for call in maps if max(call.resolution) > 1 or is_stage(call)] or maps


def _hides_its_inside(block: Call, maps: list[Call], image: Tensor | None) -> bool:
    """Whether maps inside ``block`` at its input's resolution are no stage ends.

    So it is for a block that goes from one resolution to the next (its input was the stage's end), but not
    for a plain sequence of blocks, nor for a body that spans several resolutions, nor for what reads the
    image itself.
    """
    before = block.input_resolution
    if before is None or before == block.resolution or block.input is image:
        return False
    inside = {call.resolution for call in maps if call.is_inside(block)}
    return type(block.module) is not nn.Sequential and inside <= {before, block.resolution}


def _with_followers(end: Call, maps: list[Call]) -> Call:
    """The normalisation or activation that directly follows a convolution ends its stage."""
    for call in maps[maps.index(end) + 1 :]:
        if call.input is not end.output or not call.is_elementwise or call.output.shape != end.output.shape:
            break
        if "drop" not in type(call.module).__name__.lower():
            end = call
    return end


def map_ends(trace: Trace) -> list[Call]:
    """The last map at each resolution, in order of execution; an end that is no stage container is a stem."""
    maps = _maps(trace)
    blocks = [call for call in maps if not call.is_leaf and _hides_its_inside(call, maps, trace.image)]
    ends: dict[tuple[int, ...], Call] = {}
    for call in maps:
        hidden = any(call.is_inside(block) and call.resolution == block.input_resolution for block in blocks)
        current = ends.get(call.resolution)
        # What follows a stage at its resolution (a last normalisation, a 1×1 convolution) is not the stage,
        # but a container is: the outermost one of a resolution completes last.
        follows_stage = call.is_leaf and current is not None and not current.is_leaf
        if not (hidden or call.is_elementwise or follows_stage):
            ends.pop(call.resolution, None)
            ends[call.resolution] = call
    found = list(ends.values())
    if any(not call.is_leaf for call in found[:-1]):
        found = [call for call in found[:-1] if not call.is_leaf] + found[-1:]
    return [_with_followers(call, maps) if call.is_leaf else call for call in found]


def tokens_end(trace: Trace) -> Call | None:
    """The last layer that returns tokens N×M×C: a container, or the normalisation of a flat transformer."""

    def returns_tokens(call: Call) -> bool:
        shape = call.output.shape
        return (
            len(shape) == 3
            and not call.is_pooling
            and shape[0] == len(trace.example)
            and (not call.is_leaf or isinstance(call.module, nn.LayerNorm) or is_sequence(trace, call))
            and trace.counts[call.name] == 1
        )

    tokens = [call for call in trace.calls if returns_tokens(call)]
    return next((call for call in reversed(tokens) if not call.is_leaf), tokens[-1] if tokens else None)


def features(trace: Trace) -> list[Call]:
    """The stage ends in order; the last is the last feature map, or the last tokens if these come later."""
    ends = map_ends(trace)
    tokens = tokens_end(trace)
    if tokens is None or (ends and trace.calls.index(ends[-1]) > trace.calls.index(tokens)):
        return ends
    return [call for call in ends if not _cuts_patches(call, trace)] + [tokens]


def _cuts_patches(call: Call, trace: Trace) -> bool:
    """Whether a map before tokens is only the image in patches: a convolution, or a container of one."""
    convolutions = sum(isinstance(module, nn.Conv2d) for module in call.module.modules())
    return call.is_leaf or (convolutions == 1 and call.input is trace.image)


def is_sequence(trace: Trace, call: Call) -> bool:
    """Whether an output is a sequence N×C×L of a one-dimensional convolution, or of what follows one: the channels come
    first there, and last in tokens N×M×C."""
    if call.output.dim() != 3:
        return False
    so_far = trace.calls[: trace.calls.index(call) + 1]
    kinds = [(type(c.module), c.output.shape) for c in so_far if c.output.dim() == 3 and c.is_leaf]
    latest = next(
        (item for item in reversed(kinds) if item[0] in (nn.Conv1d, nn.LayerNorm, nn.Linear, nn.Embedding)), None
    )
    return latest is not None and latest[0] is nn.Conv1d and latest[1][1] == call.output.shape[1]
