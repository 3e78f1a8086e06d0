"""The user's own networks: a module whose weights are the start, or a callable that makes a new one."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.data.drawing import drawing_from
from kdzero_gp.errors import ModelError
from kdzero_gp.models.external import CLASSES_NAMES, classes_name
from kdzero_gp.objects import own_name

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class OwnNetwork:
    """Makes copies of the user's network; the user's own object stays as it is.

    ``made`` is a module, or a callable that returns one and gets the number of classes if it takes it under one of the
    usual names. ``note``: what was done to it, or nothing.
    """

    def __init__(self, made: nn.Module | Callable[..., nn.Module], role: str = "network"):
        self.made, self.role, self.note = made, role, ""
        if isinstance(made, nn.Module):
            self.made = self._copied(made)

    def _copied(self, network: nn.Module) -> nn.Module:
        while isinstance(network, _WRAPPERS):
            network = network.module
        network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
        if any(isinstance(p, nn.UninitializedParameter) for p in network.parameters()):
            raise ModelError(f"the {self.role} {type(network).__name__} has lazy layers; call it on one batch first")
        try:
            copied = copy.deepcopy(network).cpu()
        except Exception as error:  # a module may hold anything
            raise ModelError(
                f"the {self.role} {type(network).__name__} cannot be copied ({type(error).__name__}: {error}); give a "
                "function that makes it"
            ) from None
        kinds = {p.dtype for p in copied.parameters() if p.is_floating_point()} - {torch.float32}
        if kinds:
            names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            self.note = f"the {self.role}'s weights are {names}; a copy of it computes in float32"
            copied = copied.float()
        return copied

    def build(self, classes: int) -> nn.Module:
        """A network of its own, with the start's weights. Raises ModelError where the callable makes none."""
        if isinstance(self.made, nn.Module):
            return copy.deepcopy(self.made)
        argument = classes_name(self.made)
        try:
            network = self.made(**({argument: classes} if argument else {}))
        except (Exception, SystemExit) as error:  # the user's callable may fail in any way
            raise ModelError(
                f"the {self.role} {self.kind} cannot be made ({type(error).__name__}: {error}); it is called without "
                f"arguments, or with the number of classes if it takes {CLASSES_NAMES[0]}"
            ) from error
        if not isinstance(network, nn.Module):
            raise ModelError(f"the {self.role} {self.kind} made a {type(network).__name__}; it has to be a module")
        return self._copied(network)

    @property
    def kind(self) -> str:
        """What the user calls it."""
        named: Any = type(self.made) if isinstance(self.made, nn.Module) else self.made
        return str(getattr(named, "__name__", type(named).__name__)).replace("<lambda>", "lambda")

    def name(self, classes: int) -> str:
        """The name with a fingerprint of structure and weights; of the structure alone where a callable makes other
        weights every time from one seed."""
        first = _digest(self._seeded(classes), True)
        if not isinstance(self.made, nn.Module) and _digest(self._seeded(classes), True) != first:
            first = _digest(self._seeded(classes), False)
        return own_name(self.kind, first)

    def _seeded(self, classes: int) -> nn.Module:
        with drawing_from(0):
            return self.build(classes)


def _digest(network: nn.Module, values: bool) -> bytes:
    digest = hashlib.sha256(str(network).encode())
    state = {**dict(network.named_parameters()), **network.state_dict(keep_vars=True)}
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad}".encode())
        if values and tensor.numel():
            digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
