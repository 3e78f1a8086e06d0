"""Tables for the terminal, and the same as data for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from kdzero_gp.analysis.results import RankedDistiller, race_cells, race_headers
from kdzero_gp.common import LEAST_VALUES, UNKNOWN, real
from kdzero_gp.families import TaskFamily
from kdzero_gp.search.race import RaceResult
from kdzero_gp.search.storage import StoredEvaluation


def race_table(table: Sequence[RaceResult], family: TaskFamily) -> Table:
    """The race with 95 % intervals; distillers by name or by their text."""
    seeds = max((result.seeds for result in table), default=0)
    return _results_table(table, family, f"race, {seeds} seeds that choose by validation images, mean{_half(seeds)}")


def confirmation_table(table: Sequence[RaceResult], family: TaskFamily) -> Table:
    """The finalists on fresh seeds."""
    seeds = max((result.seeds for result in table), default=0)
    title = f"confirmation, {seeds} fresh seeds that chose nothing, mean{_half(seeds)}"
    return _results_table(table, family, title)


def _half(seeds: int) -> str:
    return " ± 95 % interval" if seeds >= LEAST_VALUES else ", too few seeds for an interval"


def _results_table(table: Sequence[RaceResult], family: TaskFamily, title: str) -> Table:
    shown = Table(title=title, title_justify="left")
    for header in race_headers(family):
        is_text = header == "distiller"
        shown.add_column(header, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for rank, result in enumerate(table, 1):
        evolved = result.entry.kind == "evolved"
        style = "dim" if not evolved else "bold" if rank == 1 else ""
        shown.add_row(*race_cells(result, rank, family), style=style)
    return shown


def ranking_table(ranked: Sequence[RankedDistiller], family: TaskFamily) -> Table:
    """The best distillers of a search, at the rank that ``--rank`` and ``run:DIR#RANK`` take."""
    deciding = family.deciding
    headers = ["rank", f"race {deciding.heading}", "proxy fitness", *(f"proxy {m.heading}" for m in family.measures)]
    rows = [
        [
            str(one.rank),
            UNKNOWN if one.standing is None else deciding.text(*one.standing.value(deciding.name)),
            real(one.fitness),
            *(measure.text(one.metrics.get(measure.name, math.nan)) for measure in family.measures),
            str(one.expression),
        ]
        for one in ranked
    ]
    return plain_table([*headers, "distiller"], rows)


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of texts."""
    table = Table()
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def screens_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each screen and training took and turned away."""
    table = Table(title="screens", title_justify="left")
    for header in ("", "asked", "turned away", "seconds", "ms each"):
        table.add_column(header, justify="left" if not header else "right")
    for row in rows:
        each = 1000 * row["seconds"] / row["asked"] if row["asked"] else 0.0
        table.add_row(
            row["name"], f"{row['asked']:,}", f"{row['turned_away']:,}", f"{row['seconds']:.1f}", f"{each:.1f}"
        )
    return table


def front_table(evaluations: Sequence[StoredEvaluation], objectives: Sequence[str]) -> Table:
    """The distillers that no other beats in all objectives."""
    rows = [[*(f"{e.metrics[name]:.4g}" for name in objectives), e.expression] for e in evaluations]
    table = plain_table([*objectives, "distiller"], rows)
    table.title, table.title_justify = "front", "left"
    return table


def show(console: Console, table: Table) -> None:
    """Print a table, in full width where the output is no terminal."""
    if not console.is_terminal:
        console = Console(file=console.file, width=200)
    console.print(table)


def counts_line(counts: Mapping[str, int]) -> str:
    """What became of the births, in words."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
