"""Small things that several parts need."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import nn

from kdzero_gp.errors import SettingError, install

# The student that learns without a teacher: its key in files and databases, and what it is called.
ALONE, ALONE_TEXT = "alone", "cross-entropy alone"
# What stands where there is no number.
UNKNOWN = "–"
# An interval is given from so many values on.
LEAST_VALUES = 3


def count_parameters(network: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def interval(values: Sequence[float]) -> float:
    """The half-width of the 95 % confidence interval of the mean (Student's t); NaN for fewer than three values, since
    that of two says nothing (12.7 standard errors), and where one is not finite.

    >>> round(interval([0.0, 1.0, 2.0]), 3)
    2.484
    """
    if len(values) < LEAST_VALUES or not all(map(math.isfinite, values)):
        return math.nan
    return _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


@cache
def _quantile(freedom: int) -> float:
    """Student's t that 2.5 % exceed, with so many degrees of freedom."""
    from scipy.special import stdtrit  # what scipy.stats takes; that alone loads for a second

    return float(stdtrit(freedom, 0.975))


def real(value: float | None, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.25), duration(75), duration(4000), duration(200000)
    ('0.25 s', '1 min 15 s', '1 h 06 min', '2 d 07 h')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def summary_writer() -> Any:
    """TensorBoard's ``SummaryWriter``. Raises ``SettingError`` with the install command where it is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SettingError(f"--tensorboard needs tensorboard; install it with: {install('tensorboard')}") from None
    return SummaryWriter
