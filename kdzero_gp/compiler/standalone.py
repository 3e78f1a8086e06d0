"""Code that stands in exported files as it stands here: torch and the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


def parameters_behind(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The trained tensors that others were computed from: the leaves of their graph."""
    given = list(tensors)
    found = {id(tensor): tensor for tensor in given if tensor.is_leaf and tensor.requires_grad}
    waiting: list[Any] = [tensor.grad_fn for tensor in given]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        waiting += [before for before, _ in node.next_functions]
    return list(found.values())


def gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> float:
    """The length of a loss's gradient; 0 where it reaches none of the parameters."""
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None))


def calibrate(
    self: Any,
    student: Tensors,
    teacher: Tensors,
    labels: Tensor,
    loss: Tensor | None = None,
    shares: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """Set the magnitudes for batches like this one, and return them.

    Each term's gradient on the student's parameters becomes its share (SHARES, unless given) of that
    of ``loss``, the cross-entropy of the logits unless given. Call it after some steps of training
    without a teacher, in training mode, with what a step has and nothing detached. Calls with
    equally many labels are averaged: some four are enough.
    """
    shares = self.SHARES if shares is None else tuple(shares)
    if len(shares) != len(self.magnitudes):
        raise ValueError(f"calibrate needs {len(self.magnitudes)} shares, one a term: give shares=(…)")
    if loss is None:
        loss = F.cross_entropy(student["logits"], labels.clamp(min=-1), ignore_index=-1)
    parameters = parameters_behind([loss, *(student[name] for name in self.KNOWLEDGE)])
    if not parameters:
        raise ValueError("calibrate needs tensors of the student with their graph: no no_grad, no detach")
    kept = [buffer.clone() for buffer in self.buffers()]
    losses = [*self.terms(student, self.prepare(teacher, labels), labels), loss]
    norms = [gradient_norm(one, parameters) for one in losses]
    for buffer, old in zip(self.buffers(), kept, strict=True):
        buffer.copy_(old)
    if not all(0.0 < norm < math.inf for norm in norms):
        raise ValueError(f"calibrate needs finite gradients above 0, got {norms}, the loss's last")
    before = [known for known in self._measured if known[0] == len(labels)]
    self._measured = [*before, (len(labels), norms)]
    *sums, own = map(sum, zip(*(norms for _, norms in self._measured), strict=True))
    self.magnitudes = tuple(share * own / norm for share, norm in zip(shares, sums, strict=True))
    return self.magnitudes


class Reader:
    """Reads what a distiller needs from a network, by hooks: ``Reader(network, STUDENT_LAYERS)(images)``.

    ``layers`` says for each name the layer ("" is the network's output, "fc:input" what goes into fc),
    the keys that lead to a tensor in it, and what brings that into form, or None.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, tuple[Any, ...]]) -> None:
        self.network, self.layers = network, layers
        self.tensors: dict[str, Tensor] = {}
        for name, (layer, _, _) in layers.items():
            if layer:
                module = network.get_submodule(layer.removesuffix(":input"))
                module.register_forward_hook(self._keep(name, layer.endswith(":input")))

    def _keep(self, name: str, reads_input: bool) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.tensors[name] = inputs[0] if reads_input else output

        return keep

    def __call__(self, *inputs: Any, **named: Any) -> dict[str, Tensor]:
        """The network's forward pass: its tensors by name."""
        self.tensors = {}
        output = self.network(*inputs, **named)
        found = {}
        for name, (layer, keys, form) in self.layers.items():
            tensor = self.tensors[name] if layer else output
            for key in keys:
                indexed = isinstance(key, int) or isinstance(tensor, Mapping)
                tensor = tensor[key] if indexed else getattr(tensor, key)
            found[name] = tensor if form is None else form(tensor)
        self.tensors = {}
        return found
