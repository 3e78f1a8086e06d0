"""Reads knowledge out of any network: its logits, embedding and feature maps, without changing the network.

``Tapped(network, example)(images)`` returns a mapping as the distillers take it. The layers are found by one
run on an example (see ``discovery``) or named by the user.
"""

import re
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from kdzero_gp.data.inputs import Inputs, forward, wrapped
from kdzero_gp.errors import ModelError, meant
from kdzero_gp.models import discovery
from kdzero_gp.models.discovery import Trace
from kdzero_gp.models.outputs import Path, check_columns, choose, columns, pick

INPUT_SUFFIX = ":input"
"""A tap ``fc:input`` reads what goes into the layer ``fc``; without the suffix it reads what comes out."""
NETWORK = ""
"""The layer name of the network itself, as in ``nn.Module.get_submodule``."""
FEATURE_NAME = re.compile(r"feat([1-9]\d*)?")


def as_embedding(tensor: Tensor) -> Tensor:
    """An embedding N×D, also from N×D×1×1."""
    return tensor if tensor.dim() == 2 else tensor.flatten(1)


def as_pooled(tensor: Tensor) -> Tensor:
    """An embedding N×C, the mean over the places of a map N×C×H×W."""
    return tensor.mean((2, 3))


def as_pooled_last(tensor: Tensor) -> Tensor:
    """An embedding N×C, the mean over the places of a map N×H×W×C."""
    return tensor.mean((1, 2))


def as_channels_first(tensor: Tensor) -> Tensor:
    """A map N×C×H×W from a map N×H×W×C."""
    return tensor.permute(0, 3, 1, 2)


def as_tokens(tensor: Tensor) -> Tensor:
    """Tokens N×C×M from N×M×C."""
    return tensor.transpose(1, 2)


def as_tokens_without_class(tensor: Tensor) -> Tensor:
    """Tokens N×C×(M-1) from N×M×C: the first one, the class token, has no place in the image."""
    return tensor[:, 1:].transpose(1, 2)


Form = Callable[[Tensor], Tensor]
FORMS = (as_embedding, as_pooled, as_pooled_last, as_channels_first, as_tokens, as_tokens_without_class)
"""All of them; exported files have those that they need."""


def _is_square(number: int) -> bool:
    return number > 0 and isqrt(number) ** 2 == number


def _feature_form(name: str, layer: str, tensor: Tensor, trace: Trace) -> Form | None:
    """How a tensor of this shape becomes a feature map or tokens; None leaves it as it is."""
    if tensor.dim() == 4:
        return as_channels_first if discovery.is_channels_last(tensor, trace.square) else None
    if tensor.dim() == 3:
        found = next((c for c in reversed(trace.calls) if tensor is c.output), None)
        if found is not None and discovery.is_sequence(trace, found):
            return None
        count = tensor.shape[1]
        has_class_token = trace.image is not None and _is_square(count - 1) and not _is_square(count)
        return as_tokens_without_class if has_class_token else as_tokens
    raise ModelError(
        f"the tap {name}={layer} gives a tensor of shape {tuple(tensor.shape)} and a feature needs N×C×H×W "
        f"or tokens N×M×C; name another layer, as in taps={{{name!r}: 'layer3'}} "
        f"(--student-tap or --teacher-tap {name}=layer3)"
    )


def _embedding_form(layer: str, tensor: Tensor, square: bool) -> Form | None:
    if tensor.dim() == 4 and max(discovery.resolution(tensor, square)) > 1:
        return as_pooled_last if discovery.is_channels_last(tensor, square) else as_pooled
    if tensor.dim() < 2 or tensor.shape[1] != tensor[0].numel():
        raise ModelError(
            f"the tap emb={layer} gives a tensor of shape {tuple(tensor.shape)} and an embedding needs N×D; "
            "name another layer, as in taps={'emb': 'pool'} (--student-tap or --teacher-tap emb=pool)"
        )
    return as_embedding if tensor.dim() > 2 else None


def _form_of(name: str, layer: str, tensor: Tensor, trace: Trace) -> Form | None:
    if name == "logits":
        return as_embedding if tensor.dim() > 2 else None
    if name == "emb":
        return _embedding_form(layer, tensor, trace.square)
    return _feature_form(name, layer, tensor, trace)


class Store:
    """Where the hooks of one network put their tensors; ``tensors`` is None except during its forward pass."""

    tensors: dict[str, Tensor] | None = None


class LayerHook:
    """Stores what one layer gives, or an entry of it, or reads. An object, no closure, so that copies of a network stay
    apart."""

    def __init__(self, store: Store, name: str, reads_input: bool, key: str = ""):
        self.store, self.name, self.reads_input, self.key = store, name, reads_input, key

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.store.tensors is not None:
            value = inputs[0] if self.reads_input else output
            self.store.tensors[self.name] = value[self.key] if self.key else value


class Tapped(nn.Module):
    """A network whose forward pass returns its knowledge: ``logits`` N×K, ``emb`` N×D (what the last linear
    layer reads), ``feat`` (last feature map N×C×H×W, or tokens N×C×M) and ``feat1``, ``feat2``, ... (the ends
    of the stages before it, in order). Networks without maps or tokens have no ``feat``.

    ``example`` is a batch of the kind that the network will see: images N×C×H×W, or inputs of any rank, or a
    mapping of inputs by name. ``taps`` names layers by hand, as in ``{"feat": "layer3", "emb": "fc:input"}``, and
    replaces what would be found. ``classes`` of the data say which of several outputs are the logits. Attributes:
    ``network``, ``taps`` (the layer of each knowledge, "" for the network itself), ``shapes`` (without the batch axis)
    and ``note`` (a sentence where several outputs could be the logits).
    Raises ModelError when the logits or the embedding are not found or have not as many columns as there are
    classes, or a named layer does not exist or fit.
    """

    def __init__(
        self, network: nn.Module, example: Inputs, taps: Mapping[str, str] | None = None, classes: int | None = None
    ):
        super().__init__()
        trace = discovery.run(network, wrapped(example))
        named = dict(taps or {})
        _check_names(named, network)
        self.network = network
        self.note = ""
        self.output: Path = ()
        if named.get("logits", NETWORK) == NETWORK:
            self.output, self.note = choose(network, trace, classes)
        self.taps: dict[str, str] = _complete(trace, named, self.output)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._store = Store()
        self._forms: dict[str, Form] = {}
        self._handles: list[RemovableHandle] = []
        for name, layer in self.taps.items():
            tensor = _traced(trace, name, layer, self.output)
            if name == "logits" and classes is not None:
                check_columns(network, [columns(tensor)], classes)
            form = _form_of(name, layer, tensor, trace)
            if form is not None:
                self._forms[name] = form
            self.shapes[name] = tuple((form(tensor) if form else tensor).shape[1:])
            if layer != NETWORK:
                hook = LayerHook(self._store, name, layer.endswith(INPUT_SUFFIX))
                module = network.get_submodule(layer.removesuffix(INPUT_SUFFIX))
                self._handles.append(module.register_forward_hook(hook))

    def forward(self, images: Inputs) -> dict[str, Tensor]:
        """The knowledge of inputs in the order of ``taps``; raises ModelError if one did not run."""
        store = self._store
        tensors: dict[str, Tensor] = {}
        store.tensors = tensors
        try:
            output = forward(self.network, wrapped(images))
        finally:
            store.tensors = None  # From here on nothing but the caller holds the tensors.
        if "logits" not in tensors:
            tensors["logits"] = output if isinstance(output, Tensor) else pick(output, self.output)
        for name, form in self._forms.items():
            if name in tensors:
                tensors[name] = form(tensors[name])
        try:
            return {name: tensors[name] for name in self.taps}
        except KeyError as error:
            name = error.args[0]
            raise ModelError(
                f"the layer {self.taps[name]!r} of the tap {name!r} did not run in this forward pass; "
                "name one that always runs"
            ) from None

    def train(self, mode: bool = True) -> "Tapped":
        """As ever, but normalisations whose parameters are frozen keep their statistics, too."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters(recurse=False))
            if mode and isinstance(module, _BatchNorm) and parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    @property
    def layers(self) -> dict[str, tuple[str, Path, str]]:
        """For each knowledge its layer, the keys that lead to it in what the network returns, and the name of its
        form."""
        forms = {name: form.__name__ for name, form in self._forms.items()}
        return {n: (layer, () if layer else self.output, forms.get(n, "")) for n, layer in self.taps.items()}

    def describe(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """One row per knowledge: its name, the layer that it is read from, its shape without the batch."""
        return [(name, layer or "(output)", self.shapes[name]) for name, layer in self.taps.items()]

    def untap(self) -> nn.Module:
        """Takes the hooks off and returns the network as it was given; this object is of no use then."""
        for handle in self._handles:
            handle.remove()
        return self.network


def _check_names(named: Mapping[str, str], network: nn.Module) -> None:
    for name, layer in named.items():
        if name not in ("logits", "emb") and not FEATURE_NAME.fullmatch(name):
            raise ModelError(f"there is no knowledge {name!r}: a tap is named logits, emb, feat, feat1, feat2, ...")
        must_have_layer(network, name, layer.removesuffix(INPUT_SUFFIX))


def must_have_layer(network: nn.Module, name: str, layer: str) -> None:
    """Raises ModelError where a network has no layer of the name that the tap ``name`` reads."""
    layers = dict(network.named_modules())
    if layer not in layers:
        hint = meant(layer, layers, "see print(network) for the names")
        raise ModelError(f"{type(network).__name__} has no layer {layer!r} for the tap {name!r}: {hint}")


def _traced(trace: Trace, name: str, layer: str, output: Path = ()) -> Tensor:
    """The tensor that a tap read in a trace. Raises ModelError where it read none."""
    if layer == NETWORK:
        tensor = pick(trace.output, output)
    else:
        call = trace.last(layer.removesuffix(INPUT_SUFFIX))
        tensor = None if call is None else call.input if layer.endswith(INPUT_SUFFIX) else call.output
    if not isinstance(tensor, Tensor):
        raise ModelError(
            f"the tap {name}={layer or '(output)'} gives no tensor in a forward pass; name a layer that runs "
            f"and returns one tensor, as in taps={{{name!r}: 'head'}} (--student-tap or --teacher-tap {name}=head)"
        )
    return tensor


def _complete(trace: Trace, named: Mapping[str, str], output: Path) -> dict[str, str]:
    """All taps in the order logits, emb, feat, feat1, ...: the named ones and those that are found."""
    taps = {"logits": named.get("logits", NETWORK)}
    logits = _traced(trace, "logits", taps["logits"], output)
    if not columns(logits):
        raise ModelError(
            f"the logits have shape {tuple(logits.shape)} and a classifier gives N×K; name the layer that "
            "does, as in taps={'logits': 'head'} (--student-tap or --teacher-tap logits=head)"
        )
    found = discovery.classifier(trace, logits)
    if found is not None and "logits" not in named and discovery.is_normalised_by(found, logits):
        taps["logits"] = found.name  # Distillers need the logits, not their softmax.
    if "emb" in named:
        # The classifier named as embedding means what it reads: what it gives are the logits.
        is_classifier = found is not None and named["emb"] == found.name
        taps["emb"] = named["emb"] + INPUT_SUFFIX if is_classifier else named["emb"]
    elif found is not None:
        taps["emb"] = found.name + INPUT_SUFFIX
    else:
        ends = [call.name for call in discovery.map_ends(trace)]
        if not ends:
            raise ModelError(
                f"no classifier was found: no layer of the network gives its output of shape {tuple(logits.shape)}; "
                "name the layer whose output is the embedding, as in taps={'emb': 'pool'} (--student-tap or "
                "--teacher-tap emb=pool)"
            )
        taps["emb"] = ends[-1]
    return taps | _feature_taps(trace, named)


def _feature_taps(trace: Trace, named: Mapping[str, str]) -> dict[str, str]:
    """``feat``, ``feat1``, ...; a named ``feat`` keeps only the stage ends that run before it."""
    ends = [call.name for call in discovery.features(trace)]
    if "feat" in named:
        order = {call.name: index for index, call in enumerate(trace.calls)}
        last = order.get(named["feat"].removesuffix(INPUT_SUFFIX), 0)
        ends = [name for name in ends if order[name] < last] + [named["feat"]]
    taps = {"feat": ends[-1]} if ends else {}
    taps |= {f"feat{index}": name for index, name in enumerate(ends[:-1], start=1)}
    return taps | {name: layer for name, layer in named.items() if name not in ("logits", "emb", "feat")}
