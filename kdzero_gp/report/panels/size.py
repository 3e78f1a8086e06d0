"""The panel of accuracy against size: for each number of operations the best distiller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from kdzero_gp.analysis.markup import Cell, chart, tag
from kdzero_gp.analysis.names import evolved_name
from kdzero_gp.common import UNKNOWN, real
from kdzero_gp.report.panels.fitness import BOTTOM, HEIGHT, HIGHEST, LEFT, RIGHT, TOP, axes, ticks
from kdzero_gp.report.panels.snapshot import TOP as SHOWN
from kdzero_gp.report.panels.snapshot import WIDTHS, Snapshot
from kdzero_gp.search.ranking import Sized


def size_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The best of each size, as a chart of fitness and as a table."""
    deciding = snapshot.settings.family.deciding
    headers = ("operations", "distiller", "export", f"race {deciding.heading}", "proxy fitness")
    rows = [_row(one, snapshot) for one in snapshot.sizes]
    return {"rows": rows, "headers": headers, "charts": [_chart(snapshot.sizes, width) for width in WIDTHS if rows]}


def _row(one: Sized, snapshot: Snapshot) -> list[Cell]:
    evaluation, result, deciding = one.ranked.evaluation, one.ranked.result, snapshot.settings.family.deciding
    name = evolved_name(one.ranked.rank, evaluation.expression)
    shown = tag("a", name, href=f"#distiller-{one.ranked.rank}") if one.ranked.rank <= SHOWN else Markup.escape(name)
    star = "★ " if one.leads else ""
    mean, half = (math.nan, math.nan) if result is None else result.value(deciding.name)
    fitness = math.nan if evaluation.fitness is None else evaluation.fitness
    return [
        Cell(one.operations, one.operations),
        Cell(star + tag("span", shown, kind="who evolved") + " " + tag("code", evaluation.expression, kind="clip")),
        Cell(tag("code", f"run:{snapshot.folder}#{one.ranked.rank}"), one.ranked.rank),
        Cell(deciding.text(mean, half) if result else UNKNOWN, mean), Cell(real(evaluation.fitness), fitness),
    ]  # fmt: skip


def _chart(sizes: Sequence[Sized], width: float) -> Markup:
    """Fitness by the number of operations; larger dots for those that lead."""
    known = [(one, one.ranked.evaluation.fitness) for one in sizes]
    places = [(one, min(HIGHEST, value)) for one, value in known if value is not None and math.isfinite(value)]
    rows = ticks(min(value for _, value in places), max(1.0, *(value for _, value in places)))
    columns = ticks(0, max(one.operations for one in sizes), 10 if width > 500 else 5)

    def x(operations: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * operations / columns[-1]

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (rows[-1] - value) / (rows[-1] - rows[0])

    body = axes(rows, columns[:-1], x, y, width, "operations")
    for one, value in places:
        dot = {"cx": f"{x(one.operations):.1f}", "cy": f"{y(value):.1f}", "r": 4 if one.leads else 2.5}
        body.append(tag("circle", kind="best" if one.leads else "known", **dot))
    title = f"Fitness of the best distiller of each of {len(sizes)} numbers of operations."
    return chart(width, HEIGHT, title, body)
