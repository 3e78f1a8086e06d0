"""The panel of what the run cost."""

from __future__ import annotations

import statistics

from kdzero_gp.report.panels.pieces import Cell, duration, nothing, real, section, table, text
from kdzero_gp.report.panels.snapshot import COST_KINDS, Snapshot

_HEADERS = ("trainings", "count", "median, seconds", "total, seconds", "total", "per step, ms (median)")


def cost_panel(snapshot: Snapshot) -> str:
    """Seconds of training by kind, as a bar and as a table."""
    caption = (
        "Seconds inside the trainings, summed over workers: with several workers the clock showed less. The teacher’s "
        "and the warm student’s own training are not counted."
    )
    known = {kind: costs for kind, costs in snapshot.costs.items() if costs}
    if not known:
        return section("cost", "Cost", caption, nothing("Nothing was trained yet."))
    totals = {kind: sum(seconds for seconds, _ in costs) for kind, costs in known.items()}
    whole = sum(totals.values()) or 1.0
    parts = "".join(
        f'<i class="{kind}" style="width:{100 * total / whole:.2f}%"></i>' for kind, total in totals.items()
    )
    legend = "".join(
        f'<li><i class="swatch {kind}"></i>{COST_KINDS[kind]} {100 * total / whole:.0f} %</li>'
        for kind, total in totals.items()
    )
    rows = [_row(COST_KINDS[kind], costs) for kind, costs in known.items()]
    rows.append(_row("all", [cost for costs in known.values() for cost in costs]))
    bar = f'<div class="parts" aria-hidden="true">{parts}</div><ul class="legend">{legend}</ul>'
    return section("cost", "Cost", caption, bar + table(_HEADERS, rows, "Cost", range(1, len(_HEADERS))))


def _row(name: str, costs: object) -> list[Cell]:
    assert isinstance(costs, list)
    seconds = [one for one, _ in costs]
    middle, step, total = statistics.median(seconds), statistics.median(ms for _, ms in costs), sum(seconds)
    return [
        Cell(text(name)), Cell(f"{len(costs):,}", len(costs)), Cell(real(middle, 2), middle),
        Cell(f"{total:,.0f}", total), Cell(duration(total), total), Cell(real(step, 2), step),
    ]  # fmt: skip
