"""Fitness: one number from the metrics of a proxy training, 1 for the student that learns without a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping

from kdzero_gp.errors import SettingError


def check_weights(weights: Mapping[str, float], metrics: tuple[str, ...]) -> None:
    """Raise SettingError unless ``weights`` names metrics of the task's family, at least 0 and not all 0."""
    unknown = [name for name in weights if name not in metrics]
    if unknown:
        raise SettingError(f"there is no metric {unknown[0]!r}; --weight takes {', '.join(metrics)}")
    values = tuple(weights.values())
    if any(not math.isfinite(v) or v < 0 for v in values) or sum(values) <= 0:
        raise SettingError(f"--weight takes shares of at least 0, not all 0, got {list(values)}")


def fitness(metrics: Mapping[str, float], baseline: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Σ wᵢ · metricᵢ / baselineᵢ with Σ wᵢ = 1: lower is better, 1 is the student alone.

    Metrics that the pair does not have (no embedding, no CKA) take no part.
    """
    # by name, since a resumed run reads its weights in another order, and the order of a sum decides its last digit
    shares = {name: share for name, share in sorted(weights.items()) if share > 0 and name in metrics}
    total = sum(shares.values())
    if total == 0:
        raise SettingError(
            f"the pair has none of the weighted metrics; it has {', '.join(metrics)}: change them with --weight"
        )
    # a floor keeps a gap that the baseline closed by chance from deciding everything
    return sum(share / total * metrics[name] / max(baseline[name], 1e-3) for name, share in shares.items())
