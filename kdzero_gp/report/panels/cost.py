"""The panel of what the run cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from kdzero_gp.analysis.markup import Cell
from kdzero_gp.common import duration, real
from kdzero_gp.report.panels.snapshot import COST_KINDS, Snapshot

_HEADERS = ("trainings", "count", "median, seconds", "total, seconds", "total", "per step, ms (median)")


def cost_panel(snapshot: Snapshot) -> dict[str, Any]:
    """Seconds of training by kind, as a bar and as a table."""
    costs_of = {kind: costs for kind, costs in snapshot.costs.items() if costs}
    totals = {kind: sum(seconds for seconds, _ in costs) for kind, costs in costs_of.items()}
    whole = sum(totals.values()) or 1.0
    rows = [_row(COST_KINDS[kind], costs) for kind, costs in costs_of.items()]
    if rows:
        rows.append(_row("all", [cost for costs in costs_of.values() for cost in costs]))
    parts = [(kind, COST_KINDS[kind], 100 * total / whole) for kind, total in totals.items()]
    return {"parts": parts, "headers": _HEADERS, "rows": rows}


def _row(name: str, costs: Sequence[tuple[float, float]]) -> list[Cell]:
    seconds = [time for time, _ in costs]
    # what was predicted or turned away took no step
    steps = [milliseconds for _, milliseconds in costs if milliseconds > 0]
    step = statistics.median(steps) if steps else math.nan
    middle, total = statistics.median(seconds), sum(seconds)
    return [
        Cell(name), Cell(f"{len(costs):,}", len(costs)), Cell(real(middle, 2), middle),
        Cell(f"{total:,.0f}", total), Cell(duration(total), total), Cell(real(step, 2), step),
    ]  # fmt: skip
