"""The panel of the race: the best evolved distillers against the published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdzero_gp.report.panels.pieces import Cell, nothing, percent, points, real, section, table, text
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.race import CROSS_ENTROPY, RaceResult

HEADERS = ("rank", "distiller", "interval", "validation %", "to kd, points", "test %", "cross-entropy", "proxy fitness")
PLOT_WIDTH, PLOT_HEIGHT = 180.0, 20.0
# Entries far behind (a method that diverged) must not squeeze the others: the plot shows this share of the ranking.
PLOTTED_SHARE = 0.8


def race_panel(snapshot: Snapshot) -> str:
    """The table, best mean validation accuracy first."""
    raced = snapshot.raced
    plan = snapshot.settings.plan
    caption = (
        "The best evolved distillers, the published methods at their tuned magnitudes, and cross-entropy alone, each "
        f"trained {'from scratch' if snapshot.bench.get('race_from_scratch') else 'from the warm student'} on up to "
        f"{plan.race_seeds} fresh seeds: means with 95 % intervals. Validation accuracy decides the rank; test "
        "accuracy decides nothing."
    )
    if not raced:
        failed = [s for s in snapshot.table if s.reason and s.reason != "not raced yet"]
        words = "The race has not begun." if not failed else f"No entry finished the race; one said: {failed[0].reason}"
        return section("race", "Race against the published methods", caption, nothing(words))
    low, high = _plotted(raced)
    evolved = {entry.name: rank for rank, entry in enumerate(snapshot.top, 1)}
    rows = [_row(rank, standing, low, high, evolved) for rank, standing in enumerate(raced, 1)]
    body = table(HEADERS, rows, "Race", (0, 3, 4, 5, 6, 7))
    body += _not_raced([s for s in snapshot.table if s.reason])
    return section("race", "Race against the published methods", caption, body)


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


def _name(standing: RaceResult, evolved: dict[str, int]) -> str:
    entry = standing.entry
    if entry.kind != "evolved":
        name = f"<b>{text(entry.name)}</b>" if entry.name != CROSS_ENTROPY else text(entry.name)
        return f'<span class="who">{name}</span>'
    rank = evolved.get(entry.name)
    link = f'<a href="#distiller-{rank}">evolved {rank}</a>' if rank else "evolved"
    return f'<span class="who evolved">{link}</span> <code class="clip">{text(entry.expression)}</code>'


def _interval(standing: RaceResult, low: float, high: float) -> str:
    """The mean as a dot on its interval; an arrow where it lies outside of what is drawn."""

    def x(value: float) -> float:
        return 6 + (PLOT_WIDTH - 12) * (min(max(value, low), high) - low) / (high - low)

    kind = "evolved" if standing.entry.kind == "evolved" else "known"
    middle = PLOT_HEIGHT / 2
    box = f'viewBox="0 0 {PLOT_WIDTH:g} {PLOT_HEIGHT:g}" width="{PLOT_WIDTH:g}" height="{PLOT_HEIGHT:g}"'
    if standing.accuracy < low:
        drawn = f'<path class="{kind}" d="M10,{middle - 4}L3,{middle}L10,{middle + 4}Z"/>'
    else:
        half = _half(standing)
        start, end = x(standing.accuracy - half), x(standing.accuracy + half)
        drawn = f'<path class="whisker {kind}" d="M{start:.1f},{middle}H{end:.1f}"/>'
        drawn += f'<circle class="{kind}" cx="{x(standing.accuracy):.1f}" cy="{middle}" r="4"/>'
    return f'<svg class="interval" {box} aria-hidden="true">{drawn}</svg>'


def _not_raced(failed: Sequence[RaceResult]) -> str:
    if not failed:
        return ""
    items = "".join(
        f"<li>{text(s.entry.name if s.entry.kind != 'evolved' else s.entry.expression)}: {text(s.reason)}</li>"
        for s in failed
    )
    return f"<details><summary>{len(failed)} without a result</summary><ul>{items}</ul></details>"
