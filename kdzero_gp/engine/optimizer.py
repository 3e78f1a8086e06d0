"""Optimisers by recipe, each with one call a step: the learning rate comes from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import ModelError


class Optimizer(Protocol):
    """What the training loop asks of an optimiser."""

    def zero_grad(self) -> None: ...

    def step(self, rate: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def optimizer_for(parameters: Sequence[Tensor], recipe: Recipe) -> Optimizer:
    """The recipe's optimiser. Raises ModelError where there is nothing to train."""
    if not parameters:
        raise ModelError("the student has no trainable parameters; set requires_grad on those that are to be trained")
    return FlatSGD(parameters, recipe) if recipe.optimizer == "sgd" else ClippedAdamW(parameters, recipe)


class FlatSGD:
    """``torch.optim.SGD`` with momentum, weight decay and the norm of the gradient clipped, on one vector.

    The parameters become views of it and their gradients views of another; both keep each parameter's layout. Small
    networks spend more time in the bookkeeping of an optimiser than in its arithmetic. A parameter that the first step
    does not reach is not decayed, as in torch, which leaves it alone.
    """

    def __init__(self, parameters: Sequence[Tensor], recipe: Recipe):
        self.recipe = recipe
        sizes = [p.numel() for p in parameters]
        device = parameters[0].device
        self.values, self.gradient, self.momentum = (torch.zeros(sum(sizes), device=device) for _ in range(3))
        self._reached: set[int] = set()
        self._hooks: list[Any] = []
        self._slices: list[slice] = []
        self._decayed: Tensor | None = None
        start = 0
        for index, (parameter, size) in enumerate(zip(parameters, sizes, strict=True)):
            shape, strides = parameter.size(), parameter.stride()
            value = self.values[start : start + size].as_strided(shape, strides, start)
            value.copy_(parameter.detach())
            parameter.data = value
            parameter.grad = self.gradient[start : start + size].as_strided(shape, strides, start)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._reach(index)))
            self._slices.append(slice(start, start + size))
            start += size
        self._steps = 0

    def _reach(self, index: int) -> Any:
        return lambda _: self._reached.add(index)

    def zero_grad(self) -> None:
        """Set all gradients to 0, in place."""
        self.gradient.zero_()

    def _find_unreached(self) -> None:
        """After the first backward pass: which parameters take part."""
        for hook in self._hooks:
            hook.remove()
        unreached = [part for index, part in enumerate(self._slices) if index not in self._reached]
        if unreached:
            self._decayed = torch.ones_like(self.values)
            for part in unreached:
                self._decayed[part] = 0.0

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """One update with the learning rate ``rate`` (a scalar tensor where a graph is captured): g ← clip(∇) + λ·w,
        m ← μ·m + g, and w ← w − η·m, or w − η·(g + μ·m) with Nesterov's momentum."""
        recipe, gradient = self.recipe, self.gradient
        if self._steps == 0:
            self._find_unreached()
        if recipe.clip:
            gradient.mul_((recipe.clip / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp_(max=1.0))
        if recipe.weight_decay:
            decayed = self.values if self._decayed is None else self.values * self._decayed
            gradient.add_(decayed, alpha=recipe.weight_decay)
        if self._steps == 0:
            self.momentum.copy_(gradient)
        else:
            self.momentum.mul_(recipe.momentum).add_(gradient)
        self._steps += 1
        if recipe.nesterov:
            self._move(gradient, rate, 1.0)
        self._move(self.momentum, rate, recipe.momentum if recipe.nesterov else 1.0)

    def _move(self, direction: Tensor, rate: float | Tensor, share: float) -> None:
        if isinstance(rate, Tensor):
            self.values.addcmul_(direction, rate, value=-share)
        else:
            self.values.add_(direction, alpha=-rate * share)

    def state_dict(self) -> dict[str, Any]:
        """What changes in training besides the parameters."""
        return {"momentum": self.momentum, "steps": self._steps, "decayed": self._decayed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.momentum.copy_(state["momentum"])
        self._steps, self._decayed = state["steps"], state["decayed"]


class ClippedAdamW:
    """``torch.optim.AdamW``; as in timm and DeiT, biases and the scales of normalisations are not decayed."""

    def __init__(self, parameters: Sequence[Tensor], recipe: Recipe):
        self.parameters, self.recipe = list(parameters), recipe
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW([g for g in groups if g["params"]], recipe.learning_rate, fused=True)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """One update with the learning rate ``rate``."""
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip, foreach=True)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return self.adamw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state)
