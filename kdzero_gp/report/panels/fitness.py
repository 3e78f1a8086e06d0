"""The panel of fitness over generations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from kdzero_gp.analysis.markup import Cell, chart, label, tag
from kdzero_gp.analysis.statistics import fitness_over_generations
from kdzero_gp.common import ALONE_TEXT, real
from kdzero_gp.report.panels.snapshot import WIDTHS, Snapshot
from kdzero_gp.search.storage import Status

HEIGHT = 320.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 14.0, 34.0
# A chart has at most this many columns, its table this many rows; more generations are put together.
COLUMNS, TABLE_ROWS = 240, 25
# Fitness above this multiple of the cross-entropy-only student is cut off: one bad birth would flatten all others.
HIGHEST = 2.0
# Lines closer than this, in pixels, share a label's place.
LABEL_GAP = 15.0
_QUANTITIES = ("q10", "q25", "median", "q75", "q90")

Row = dict[str, Any]
# What became of the births of a generation.
COUNTS = (*(status.value for status in Status), "duplicates")


def fitness_panel(snapshot: Snapshot) -> dict[str, Any]:
    """Best and quantiles of fitness, as a chart and as a table."""
    rows = fitness_over_generations(snapshot.births, snapshot.evaluations)
    if not any(math.isfinite(row["best_so_far"]) for row in rows):
        return {"rows": []}
    drawn, lines = grouped(rows, COLUMNS), reference_lines(snapshot)
    charts = [fitness_chart(drawn, lines, width) for width in WIDTHS]
    return {"charts": charts, "headers": _HEADERS, "rows": [_cells(row) for row in grouped(rows, TABLE_ROWS)]}


def reference_lines(snapshot: Snapshot) -> dict[str, float]:
    """Fitness of what the search has to beat: cross-entropy alone, ``kd`` and the best published method, each at its
    best proxy."""
    zoo = {s.entry.name: s.entry.fitness for s in snapshot.table if s.entry.kind == "zoo"}
    known = {name: fitness for name, fitness in zoo.items() if fitness is not None}
    lines = {ALONE_TEXT: 1.0}
    if "kd" in known:
        lines["kd"] = known["kd"]
    if known:
        best = min(known, key=lambda name: known[name])
        lines[f"best published: {best}"] = known[best]
        if best == "kd":
            del lines["kd"]
    return lines


def grouped(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` rows: neighbouring generations put together, counts summed, quantiles averaged by births, the
    best of the last one."""
    size = math.ceil(len(rows) / most) or 1
    return [_together(rows[start : start + size]) for start in range(0, len(rows), size)]


def _together(rows: Sequence[Row]) -> Row:
    found: Row = {"generation": rows[0]["generation"], "until": rows[-1]["generation"]}
    for name in ("births", *COUNTS):
        found[name] = sum(row[name] for row in rows)
    good = [row for row in rows if math.isfinite(row["median"])]
    for name in _QUANTITIES:
        weights = sum(row["births"] for row in good)
        found[name] = sum(row[name] * row["births"] for row in good) / weights if weights else math.nan
    found["best_so_far"] = rows[-1]["best_so_far"]
    return found


def fitness_chart(rows: Sequence[Row], lines: dict[str, float], width: float) -> Markup:
    """The chart in one width."""
    low, high = _range(rows, lines)
    first, last = rows[0]["generation"], max(rows[-1]["generation"], rows[0]["generation"] + 1)

    def x(generation: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * (generation - first) / (last - first)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(value, low), high)) / (high - low)

    places = [p for p in ticks(first, last, 10 if width > 500 else 5) if first <= p <= last and p == round(p)]
    body = axes(ticks(low, high), places, x, y, width, "generation")
    measured = [row for row in rows if math.isfinite(row["median"])]
    for lower, upper, kind in (("q10", "q90", "most"), ("q25", "q75", "half")):
        edge = [(x(row["generation"]), y(row[upper])) for row in measured]
        edge += [(x(row["generation"]), y(row[lower])) for row in reversed(measured)]
        body.append(tag("polygon", kind=f"band {kind}", points=_points(edge)))
    middle = [(x(row["generation"]), y(row["median"])) for row in measured]
    body.append(tag("polyline", kind="median", points=_points(middle)))
    body += _references(lines, y, width)
    best = [(x(row["generation"]), y(row["best_so_far"])) for row in rows if math.isfinite(row["best_so_far"])]
    steps = [best[0]]
    for place in best[1:]:
        steps += [(place[0], steps[-1][1]), place]
    body.append(tag("polyline", kind="best", points=_points(steps)))
    body.append(tag("circle", kind="best", cx=f"{steps[-1][0]:.1f}", cy=f"{steps[-1][1]:.1f}", r=3.5))
    title = f"Fitness over {last - first + 1} generations; the best so far ends at {real(rows[-1]['best_so_far'])}."
    return chart(width, HEIGHT, title, body)


def _range(rows: Sequence[Row], lines: dict[str, float]) -> tuple[float, float]:
    best = [row["best_so_far"] for row in rows if math.isfinite(row["best_so_far"])]
    upper = sorted(row["q90"] for row in rows if math.isfinite(row["q90"]))
    high = max(1.05, min(HIGHEST, upper[int(0.95 * (len(upper) - 1))]))
    covering = ticks(min(*best, *lines.values(), best[-1]), high)
    return covering[0], covering[-1]


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers that cover low..high.

    >>> ticks(0.0, 0.93)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    values = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [round(float(value), 12) for value in values]


def axes(rows: Sequence[float], columns: Sequence[float], x: Any, y: Any, width: float, what: str) -> list[Markup]:
    """Lines at some values with their numbers, and numbers below at some places, which are of ``what``."""
    parts = []
    for value in rows:
        parts.append(tag("path", kind="grid", d=f"M{LEFT},{y(value):.1f}H{width - RIGHT}"))
        parts.append(label(LEFT - 8, y(value) + 4, f"{value:.3g}", "tick", "end"))
    for place in columns:
        anchor = "end" if x(place) > width - RIGHT - 8 else "middle"
        parts.append(label(x(place), HEIGHT - BOTTOM + 17, f"{place:g}", "tick", anchor))
    return [*parts, label((LEFT + width - RIGHT) / 2, HEIGHT - 3, what, "tick", "middle")]


def _references(lines: dict[str, float], y: Any, width: float) -> list[Markup]:
    parts = []
    taken: list[float] = []
    for name, value in sorted(lines.items(), key=lambda item: -item[1]):
        height = y(value) - 4
        while any(abs(height - other) < LABEL_GAP for other in taken):
            height += LABEL_GAP
        taken.append(height)
        parts.append(tag("path", kind="reference", d=f"M{LEFT},{y(value):.1f}H{width - RIGHT}"))
        parts.append(label(width - RIGHT - 2, height, f"{name} {value:.3f}", "halo", "end"))
    return parts


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


_HEADERS = ("generations", "births", "best so far", "10 %", "25 %", "median", "75 %", "90 %", *COUNTS)


def _cells(row: Row) -> list[Cell]:
    first, last = row["generation"], row["until"]
    return [
        Cell(f"{first}–{last}" if last > first else first, first), Cell(f"{row['births']:,}", row["births"]),
        *(Cell(real(row[name], 3), row[name]) for name in ("best_so_far", *_QUANTITIES)),
        *(Cell(f"{row[name]:,}", row[name]) for name in COUNTS),
    ]  # fmt: skip
