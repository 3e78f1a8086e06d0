"""Small things that several parts need."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from torch import nn


def count_parameters(network: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def interval(values: Sequence[float]) -> float:
    """The half-width of the 95 % confidence interval of the mean (Student's t); NaN for fewer than two values.

    >>> round(interval([0.0, 1.0, 2.0]), 3)
    2.484
    """
    from scipy import stats

    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
