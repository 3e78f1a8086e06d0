"""How a network is trained: numbers only, so that a recipe can be stored, printed and compared."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from kdzero_gp.errors import SettingError


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum over ``epochs`` passes of ``batch_size`` images.

    The learning rate rises linearly from 0 over the ``warmup`` share of the steps; then it falls to 0 along a half
    cosine (``decay="cosine"``), linearly (``"linear"``), or stays (``"constant"``). Gradients are clipped to norm
    ``clip``, since the scale of evolved losses is only known at the start.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    decay: str = "cosine"
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch_size < 2 or self.learning_rate <= 0:
            raise SettingError(
                f"a recipe needs epochs > 0, batch size ≥ 2 and learning rate > 0, got {self.epochs:g}, "
                f"{self.batch_size}, {self.learning_rate:g}"
            )
        if self.decay not in ("cosine", "linear", "constant"):
            raise SettingError(f"decay must be cosine, linear or constant, got {self.decay!r}")

    def steps(self, images: int) -> int:
        """The number of optimiser steps on ``images`` images; an incomplete last batch of an epoch is left out."""
        return max(1, round(self.epochs * max(1, images // self.batch_size)))

    def rates(self, steps: int) -> list[float]:
        """The learning rate of each step."""
        rising = max(1, round(self.warmup * steps))
        found = []
        for step in range(steps):
            if step < rising:
                factor = (step + 1) / rising
            elif self.decay == "constant":
                factor = 1.0
            else:
                left = 1.0 - (step - rising) / max(1, steps - rising)
                factor = left if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
            found.append(self.learning_rate * factor)
        return found

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)
