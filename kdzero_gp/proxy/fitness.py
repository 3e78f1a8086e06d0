"""Fitness: one number from the metrics of a proxy training, 1 for the student that learns from the labels alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kdzero_gp.errors import SettingError


@dataclass(frozen=True)
class FitnessWeights:
    """Shares of the objectives; they are scaled to sum to 1. The default is equal shares of the paper's three."""

    cross_entropy: float = 1.0
    sharpness_gap: float = 1.0
    cka_gap: float = 1.0
    calibrated: float = 0.0

    def __post_init__(self) -> None:
        values = tuple(vars(self).values())
        if any(not math.isfinite(v) or v < 0 for v in values) or sum(values) <= 0:
            raise SettingError(f"fitness weights must be at least 0 and not all 0, got {values}")


def fitness(metrics: Mapping[str, float], baseline: Mapping[str, float], weights: FitnessWeights) -> float:
    """Σ wᵢ · metricᵢ / baselineᵢ with Σ wᵢ = 1: lower is better, 1 is cross-entropy alone.

    Metrics that the pair does not have (no embedding, no CKA) take no part.
    """
    shares = {name: share for name, share in vars(weights).items() if share > 0 and name in metrics}
    total = sum(shares.values())
    if total == 0:
        raise SettingError(
            f"the pair has none of the weighted metrics; it has {', '.join(metrics)}: change the weights"
        )
    # a floor keeps a gap that the baseline closed by chance from deciding everything
    return sum(share / total * metrics[name] / max(baseline[name], 1e-3) for name, share in shares.items())
