"""The panel of the race: the best evolved distillers against the published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdzero_gp.analysis.results import race_cells, race_headers
from kdzero_gp.families import TaskFamily
from kdzero_gp.report.panels.pieces import Cell, nothing, section, table, text
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.race import TEST, RaceResult

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
        f"{plan.race_seeds} fresh seeds: means with 95 % intervals. The first measure, on validation images, decides "
        "the rank; test images decide nothing."
    )
    if not raced:
        failed = [s for s in snapshot.table if s.reason and s.reason != "not raced yet"]
        words = "The race has not begun." if not failed else f"No entry finished the race; one said: {failed[0].reason}"
        return section("race", "Race against the published methods", caption, nothing(words))
    family = snapshot.settings.family
    low, high = _plotted(raced, family)
    evolved = {entry.name: rank for rank, entry in enumerate(snapshot.top, 1)}
    rows = [_row(rank, standing, (low, high), evolved, family) for rank, standing in enumerate(raced, 1)]
    _, distiller, *measured = race_headers(family)
    headers = ("rank", distiller, "interval", *measured)
    body = table(headers, rows, "Race", (0, *range(3, len(headers))))
    body += _not_raced([s for s in snapshot.table if s.reason])
    return section("race", "Race against the published methods", caption, body)


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
        Cell(first, rank), Cell(_name(result, evolved)), Cell(_interval(result, limits, family), means[0]),
        *(Cell(shown, value) for shown, value in zip(texts, values, strict=True)),
    ]  # fmt: skip


def _name(standing: RaceResult, evolved: dict[str, int]) -> str:
    entry = standing.entry
    if entry.kind != "evolved":
        name = f"<b>{text(entry.title)}</b>" if entry.kind == "zoo" else text(entry.title)
        return f'<span class="who">{name}</span>'
    rank = evolved.get(entry.name)
    link = f'<a href="#distiller-{rank}">evolved {rank}</a>' if rank else "evolved"
    return f'<span class="who evolved">{link}</span> <code class="clip">{text(entry.expression)}</code>'


def _interval(result: RaceResult, limits: tuple[float, float], family: TaskFamily) -> str:
    """The mean as a dot on its interval; an arrow where it lies outside of what is drawn."""
    (low, high), (mean, half) = limits, _decided(result, family)

    def x(value: float) -> float:
        return 6 + (PLOT_WIDTH - 12) * (min(max(value, low), high) - low) / (high - low)

    kind = "evolved" if result.entry.kind == "evolved" else "known"
    middle = PLOT_HEIGHT / 2
    box = f'viewBox="0 0 {PLOT_WIDTH:g} {PLOT_HEIGHT:g}" width="{PLOT_WIDTH:g}" height="{PLOT_HEIGHT:g}"'
    if mean < low:
        drawn = f'<path class="{kind}" d="M10,{middle - 4}L3,{middle}L10,{middle + 4}Z"/>'
    else:
        start, end = x(mean - half), x(mean + half)
        drawn = f'<path class="whisker {kind}" d="M{start:.1f},{middle}H{end:.1f}"/>'
        drawn += f'<circle class="{kind}" cx="{x(mean):.1f}" cy="{middle}" r="4"/>'
    return f'<svg class="interval" {box} aria-hidden="true">{drawn}</svg>'


def _not_raced(failed: Sequence[RaceResult]) -> str:
    if not failed:
        return ""
    items = "".join(f"<li>{text(s.entry.title)}: {text(s.reason)}</li>" for s in failed)
    return f"<details><summary>{len(failed)} without a result</summary><ul>{items}</ul></details>"
