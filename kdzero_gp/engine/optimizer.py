"""SGD for proxies: all parameters in one vector, so that a step of a small network is a handful of operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdzero_gp.engine.recipe import Recipe


class FlatSGD:
    """``torch.optim.SGD`` with Nesterov momentum, weight decay and the norm of the gradient clipped, on one vector.

    The parameters become views of it and their gradients views of another; both keep each parameter's layout. Small
    networks spend more time in the bookkeeping of an optimiser than in its arithmetic.
    """

    def __init__(self, parameters: Sequence[Tensor], recipe: Recipe):
        self.recipe = recipe
        sizes = [p.numel() for p in parameters]
        device = parameters[0].device
        self.values, self.gradient, self.momentum = (torch.zeros(sum(sizes), device=device) for _ in range(3))
        start = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            shape, strides = parameter.size(), parameter.stride()
            value = self.values[start : start + size].as_strided(shape, strides, start)
            value.copy_(parameter.detach())
            parameter.data = value
            parameter.grad = self.gradient[start : start + size].as_strided(shape, strides, start)
            start += size
        self._first = True

    def zero_grad(self) -> None:
        """Set all gradients to 0, in place."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update with the learning rate ``rate``: g ← clip(∇) + λ·w, m ← μ·m + g, w ← w − η·(g + μ·m)."""
        recipe, gradient = self.recipe, self.gradient
        scale = recipe.clip / (torch.linalg.vector_norm(gradient) + 1e-6)
        gradient.mul_(scale.clamp_(max=1.0)).add_(self.values, alpha=recipe.weight_decay)
        if self._first:
            self.momentum.copy_(gradient)
            self._first = False
        else:
            self.momentum.mul_(recipe.momentum).add_(gradient)
        self.values.add_(gradient, alpha=-rate).add_(self.momentum, alpha=-rate * recipe.momentum)
