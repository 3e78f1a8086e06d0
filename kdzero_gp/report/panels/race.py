"""The panel of the race: the best evolved distillers against the published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from kdzero_gp.analysis.markup import Cell, tag
from kdzero_gp.common import percent, points, real
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.race import CROSS_ENTROPY, RaceResult

HEADERS = ("rank", "distiller", "interval", "validation %", "to kd, points", "test %", "cross-entropy", "proxy fitness")
PLOT_WIDTH, PLOT_HEIGHT = 180.0, 20.0
# Entries far behind (a method that diverged) must not squeeze the others: the plot shows this share of the ranking.
PLOTTED_SHARE = 0.8


def race_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The table, best mean validation accuracy first."""
    raced = snapshot.raced
    failed = [result for result in snapshot.table if result.reason]
    evolved = {entry.name: rank for rank, entry in enumerate(snapshot.top, 1)}
    limits = _plotted(raced) if raced else (0.0, 1.0)
    return {
        "from_scratch": snapshot.bench.get("race_from_scratch"), "seeds": snapshot.settings.plan.race_seeds,
        "failure": next((result.reason for result in failed if result.reason != "not raced yet"), ""),
        "headers": HEADERS, "rows": [_row(rank, result, *limits, evolved) for rank, result in enumerate(raced, 1)],
        "without": [(_plain_name(result), result.reason) for result in failed],
    }  # fmt: skip


def _plain_name(result: RaceResult) -> str:
    return result.entry.expression if result.entry.kind == "evolved" else result.entry.name


def _plotted(raced: Sequence[RaceResult]) -> tuple[float, float]:
    """The range of accuracies that the intervals are drawn in."""
    edges = [(s.accuracy - _half(s), s.accuracy + _half(s)) for s in raced]
    kept = edges[: max(1, math.ceil(PLOTTED_SHARE * len(edges)))]
    low, high = min(low for low, _ in kept), max(high for _, high in kept)
    margin = max(1e-4, 0.04 * (high - low))
    return low - margin, high + margin


def _half(standing: RaceResult) -> float:
    return 0.0 if math.isnan(standing.accuracy_interval) else standing.accuracy_interval


def _row(rank: int, standing: RaceResult, low: float, high: float, evolved: dict[str, int]) -> list[Cell]:
    entry = standing.entry
    is_kd = entry.name == "kd"
    difference = "" if is_kd else points(standing.difference_to_kd, standing.difference_interval)
    return [
        Cell(str(rank), rank), Cell(_name(standing, evolved)), Cell(_interval(standing, low, high), standing.accuracy),
        Cell(percent(standing.accuracy, standing.accuracy_interval), standing.accuracy),
        Cell(difference, 0.0 if is_kd else standing.difference_to_kd),
        Cell(percent(standing.test_accuracy, standing.test_interval), standing.test_accuracy),
        Cell(real(standing.cross_entropy), standing.cross_entropy),
        Cell(real(entry.fitness), math.nan if entry.fitness is None else entry.fitness),
    ]  # fmt: skip


def _name(standing: RaceResult, evolved: dict[str, int]) -> Markup:
    entry = standing.entry
    if entry.kind != "evolved":
        return tag("span", entry.name if entry.name == CROSS_ENTROPY else tag("b", entry.name), kind="who")
    rank = evolved.get(entry.name)
    link = tag("a", f"evolved {rank}", href=f"#distiller-{rank}") if rank else "evolved"
    return tag("span", link, kind="who evolved") + " " + tag("code", entry.expression, kind="clip")


def _interval(standing: RaceResult, low: float, high: float) -> Markup:
    """The mean as a dot on its interval; an arrow where it lies outside of what is drawn."""

    def x(value: float) -> float:
        return 6 + (PLOT_WIDTH - 12) * (min(max(value, low), high) - low) / (high - low)

    kind = "evolved" if standing.entry.kind == "evolved" else "known"
    middle = PLOT_HEIGHT / 2
    if standing.accuracy < low:
        drawn = [tag("path", kind=kind, d=f"M10,{middle - 4}L3,{middle}L10,{middle + 4}Z")]
    else:
        half = _half(standing)
        start, end = x(standing.accuracy - half), x(standing.accuracy + half)
        drawn = [
            tag("path", kind=f"whisker {kind}", d=f"M{start:.1f},{middle}H{end:.1f}"),
            tag("circle", kind=kind, cx=f"{x(standing.accuracy):.1f}", cy=middle, r=4),
        ]
    box = {"viewBox": f"0 0 {PLOT_WIDTH:g} {PLOT_HEIGHT:g}", "width": f"{PLOT_WIDTH:g}", "height": f"{PLOT_HEIGHT:g}"}
    return tag("svg", *drawn, kind="interval", **box, aria_hidden="true")
