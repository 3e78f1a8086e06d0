"""Tables for the terminal, and the same as data for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from kdzero_gp.common import percent
from kdzero_gp.search.race import RaceResult
from kdzero_gp.search.storage import StoredEvaluation


def race_table(standings: Sequence[RaceResult]) -> Table:
    """The race with 95 % intervals; distillers by name or by the beginning of their text."""
    seeds = max((s.seeds for s in standings), default=0)
    table = Table(title=f"race, {seeds} fresh seeds, mean ± 95 % interval", title_justify="left")
    for header, justify in (
        ("", "right"), ("distiller", "left"), ("validation %", "right"), ("cross-entropy", "right"),
        ("to kd, points", "right"), ("test %", "right"), ("proxy fitness", "right"),
    ):  # fmt: skip
        table.add_column(header, justify=justify, no_wrap=header != "distiller", overflow="fold")  # type: ignore[arg-type]
    for rank, standing in enumerate(standings, 1):
        entry = standing.entry
        what = entry.expression if entry.kind == "evolved" else entry.name
        if standing.reason:
            table.add_row("", what, standing.reason)
            continue
        difference = percent(standing.difference_to_kd, standing.difference_interval)
        table.add_row(
            str(rank), what, percent(standing.accuracy, standing.accuracy_interval), f"{standing.cross_entropy:.4f}",
            "" if entry.name == "kd" else difference, percent(standing.test_accuracy, standing.test_interval),
            "–" if entry.fitness is None else f"{entry.fitness:.4f}",
            style="bold" if entry.kind == "evolved" and rank == 1 else ("" if entry.kind == "evolved" else "dim"),
        )  # fmt: skip
    return table


def standing_as_data(standing: RaceResult) -> dict[str, Any]:
    """One standing for ``--json``; what was not measured is null."""
    found = {
        "name": standing.entry.name,
        "kind": standing.entry.kind,
        "expression": standing.entry.expression or None,
        "magnitudes": list(standing.entry.magnitudes),
        "fitness": standing.entry.fitness,
        "seeds": standing.seeds,
        "reason": standing.reason or None,
    }
    for name in ("accuracy", "accuracy_interval", "cross_entropy", "test_accuracy", "test_interval",
                 "difference_to_kd", "difference_interval"):  # fmt: skip
        value = getattr(standing, name)
        found[name] = None if math.isnan(value) else value
    return found


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
