"""The picture of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdzero_gp.families import Measure

# Longer names are cut in the middle of a picture's margin.
_LONGEST_NAME = 40


def draw(rows: Sequence[Any], measure: Measure, path: Path, title: str) -> None:
    """Mean on test images with its 95 % interval for each distiller, best on top, as a PNG. ``rows`` are those of a
    comparison; those without numbers are left out."""
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from kdzero_gp.files import atomic_write

    shown = [row for row in rows if not row.reason][::-1]
    figure = Figure(figsize=(7.0, 1.2 + 0.35 * max(1, len(shown))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(shown):
        width = 0.0 if math.isnan(row.interval) else measure.scale * row.interval
        colour = "0.4" if row.name in ("ce", "kd") else "C0"
        axes.errorbar(measure.scale * row.test, place, xerr=width, fmt="o", color=colour, capsize=3)
    names = [row.name if len(row.name) <= _LONGEST_NAME else row.name[: _LONGEST_NAME - 1] + "…" for row in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_xlabel(f"test {measure.heading}: mean and 95 % interval")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(axis="x", alpha=0.3)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    atomic_write(path, content.getvalue())
