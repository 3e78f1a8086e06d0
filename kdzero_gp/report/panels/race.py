"""The panel of the race: the best evolved distillers against the published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from kdzero_gp.analysis.markup import Cell, tag
from kdzero_gp.analysis.names import evolved_name
from kdzero_gp.analysis.results import race_cells, race_headers
from kdzero_gp.families import TaskFamily
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.race import TEST, Competitor, RaceResult

PLOT_WIDTH, PLOT_HEIGHT = 180.0, 20.0
# Entries far behind (a method that diverged) must not squeeze the others: the plot shows this share of the ranking.
PLOTTED_SHARE = 0.8


def race_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The table, the best first."""
    raced = snapshot.raced
    family = snapshot.settings.family
    failed = [result for result in snapshot.table if result.reason]
    evolved = {entry.name: rank for rank, entry in enumerate(snapshot.top, 1)}
    limits = _plotted(raced, family) if raced else (0.0, 1.0)
    _, distiller, *measured = race_headers(family)
    return {
        "from_scratch": snapshot.bench.get("race_from_scratch"), "seeds": snapshot.settings.plan.race_seeds,
        "failure": next((result.reason for result in failed if result.reason != "not raced yet"), ""),
        "deciding": family.deciding, "headers": ("rank", distiller, "interval", *measured),
        "rows": [_row(rank, result, limits, evolved, family) for rank, result in enumerate(raced, 1)],
        "without": [(result.entry.title, result.reason) for result in failed],
    }  # fmt: skip


def _plotted(raced: Sequence[RaceResult], family: TaskFamily) -> tuple[float, float]:
    """The range of the deciding measure that the intervals are drawn in."""
    ends = [(mean - half, mean + half) for mean, half in (_decided(result, family) for result in raced)]
    near = ends[: max(1, math.ceil(PLOTTED_SHARE * len(ends)))]
    low, high = min(low for low, _ in near), max(high for _, high in near)
    margin = max(1e-4, 0.04 * (high - low))
    return low - margin, high + margin


def _decided(result: RaceResult, family: TaskFamily) -> tuple[float, float]:
    mean, half = result.value(family.decides)
    return mean, 0.0 if math.isnan(half) else half


def _row(
    rank: int, result: RaceResult, limits: tuple[float, float], evolved: dict[str, int], family: TaskFamily
) -> list[Cell]:
    first, _, *texts = race_cells(result, rank, family)
    means = [result.value(measure.name)[0] for measure in family.measures]
    difference = 0.0 if result.entry.name == "kd" else result.difference[0]
    fitness = math.nan if result.entry.fitness is None else result.entry.fitness
    values = [*means, difference, result.value(TEST + family.decides)[0], fitness]
    return [
        Cell(first, rank), Cell(_name(result.entry, evolved)), Cell(_interval(result, limits, family), means[0]),
        *(Cell(shown, value) for shown, value in zip(texts, values, strict=True)),
    ]  # fmt: skip


def _name(entry: Competitor, evolved: dict[str, int]) -> Markup:
    if entry.kind != "evolved":
        return tag("span", tag("b", entry.title) if entry.kind == "zoo" else entry.title, kind="who")
    rank = evolved.get(entry.name)
    name = evolved_name(rank, entry.expression)
    link = tag("a", name, href=f"#distiller-{rank}") if rank else name
    return tag("span", link, kind="who evolved") + " " + tag("code", entry.expression, kind="clip")


def _interval(result: RaceResult, limits: tuple[float, float], family: TaskFamily) -> Markup:
    """The mean as a dot on its interval; an arrow where it lies outside of what is drawn."""
    (low, high), (mean, half) = limits, _decided(result, family)

    def x(value: float) -> float:
        return 6 + (PLOT_WIDTH - 12) * (min(max(value, low), high) - low) / (high - low)

    kind = "evolved" if result.entry.kind == "evolved" else "known"
    middle = PLOT_HEIGHT / 2
    if mean < low:
        drawn = [tag("path", kind=kind, d=f"M10,{middle - 4}L3,{middle}L10,{middle + 4}Z")]
    else:
        start, end = x(mean - half), x(mean + half)
        drawn = [
            tag("path", kind=f"whisker {kind}", d=f"M{start:.1f},{middle}H{end:.1f}"),
            tag("circle", kind=kind, cx=f"{x(mean):.1f}", cy=middle, r=4),
        ]
    box = {"viewBox": f"0 0 {PLOT_WIDTH:g} {PLOT_HEIGHT:g}", "width": f"{PLOT_WIDTH:g}", "height": f"{PLOT_HEIGHT:g}"}
    return tag("svg", *drawn, kind="interval", **box, aria_hidden="true")
