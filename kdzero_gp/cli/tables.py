"""Tables for the terminal, and the same as data for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import HORIZONTALS
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdzero_gp.analysis.names import evolved_name, names_of
from kdzero_gp.analysis.results import (
    RankedDistiller,
    confirmed_cells,
    confirmed_headers,
    race_cells,
    race_headers,
)
from kdzero_gp.common import LEAST_VALUES, UNKNOWN, real
from kdzero_gp.families import TaskFamily
from kdzero_gp.search.race import RaceResult
from kdzero_gp.search.storage import StoredEvaluation

# Narrower terminals get the columns that decide; wider ones the rest of them, too.
WIDE = 110
# A name is cut to so many characters.
NAME = 28
# The width of what goes to a file or a pipe.
UNLIMITED = 200


def width_of(console: Console) -> int:
    """How many columns a table may have."""
    return console.width if console.is_terminal else UNLIMITED


def race_table(
    table: Sequence[RaceResult], family: TaskFamily, width: int = UNLIMITED, expressions: bool = True
) -> Group:
    """The race with 95 % intervals under the distillers' short names, and below it what the evolved ones are."""
    title = f"race, {_seeds(table)} seeds that choose by validation images, mean{_half(_seeds(table))}"
    names = names_of(table)
    evolved = [r.entry for r in table if r.entry.kind == "evolved" and not r.reason and expressions]
    lines = [Text(f"{names[entry.name].split(' · ')[0]}: {entry.expression}", "dim") for entry in evolved]
    return Group(_results_table(table, family, title, names, width), *lines)


def confirmation_table(table: Sequence[RaceResult], race: Sequence[RaceResult], family: TaskFamily) -> Table:
    """The finalists on fresh seeds, under the names that they have in the race; what the verdict goes by first."""
    shown = _table(f"confirmation, {_seeds(table)} fresh seeds that chose nothing, mean{_half(_seeds(table))}")
    names = names_of(race, table)
    _add_column(shown, "distiller", is_text=True)
    for header in confirmed_headers(family):
        _add_column(shown, header)
    for result in table:
        cells = [result.reason, "", ""] if result.reason else [text for text, _ in confirmed_cells(result, family)]
        style = "" if result.entry.kind == "evolved" else "dim"
        shown.add_row(names.get(result.entry.name, result.entry.title), *cells, style=style)
    return _unbroken(shown)


def _seeds(table: Sequence[RaceResult]) -> int:
    return max((result.seeds for result in table), default=0)


def _half(seeds: int) -> str:
    return " ± 95 % interval" if seeds >= LEAST_VALUES else ", too few seeds for an interval"


def _results_table(
    table: Sequence[RaceResult], family: TaskFamily, title: str, names: Mapping[str, str], width: int
) -> Table:
    # rank, name, the measures, the difference to kd, test, fitness
    shown = _table(title)
    headers = race_headers(family)
    deciding = 2 + list(family.measures).index(family.deciding)
    kept = [0, 1, deciding, len(headers) - 3, len(headers) - 2] if width < WIDE else range(len(headers))
    for place in kept:
        _add_column(shown, headers[place], is_text=place == 1)
    for rank, result in enumerate(table, 1):
        cells = race_cells(result, rank, family)
        cells[1] = names.get(result.entry.name, cells[1])
        if result.reason:
            cells[deciding], cells[2] = cells[2], "" if deciding != 2 else cells[2]
        evolved = result.entry.kind == "evolved"
        style = "dim" if not evolved else "bold" if rank == 1 else ""
        shown.add_row(*(cells[place] for place in kept), style=style)
    return _unbroken(shown)


def ranking_table(ranked: Sequence[RankedDistiller], family: TaskFamily, width: int = UNLIMITED) -> Group:
    """The best distillers of a search, at the rank that ``--rank`` and ``run:DIR#RANK`` take; expressions below."""
    deciding = family.deciding
    known = [measure for measure in family.measures if any(measure.name in one.metrics for one in ranked)]
    measures = [family.of_proxies] if width < WIDE else known
    shown = _table("ranked by race and fitness (lower is better; cross-entropy alone has 1)")
    headers = [f"race {deciding.heading}", "proxy fitness", *(f"proxy {m.heading}" for m in measures)]
    _add_column(shown, "distiller", is_text=True)
    for header in headers:
        _add_column(shown, header)
    for one in ranked:
        shown.add_row(
            evolved_name(one.rank, str(one.expression)),
            UNKNOWN if one.standing is None else deciding.text(*one.standing.value(deciding.name)),
            real(one.fitness),
            *(measure.text(one.metrics.get(measure.name, math.nan)) for measure in measures),
        )
    return Group(_unbroken(shown), *(Text(f"{one.rank}: {one.expression}", "dim") for one in ranked))


def sizes_table(sizes: Sequence[tuple[int, bool, RankedDistiller]], family: TaskFamily) -> Table:
    """The best distiller of each number of operations, up to the size of the best of all; a star where no smaller
    one is ranked above it."""
    shown = _table("accuracy against size: the best of each number of operations; *: better than all smaller ones")
    _add_column(shown, "operations")
    _add_column(shown, "distiller", is_text=True)
    for header in (f"race {family.deciding.heading}", "proxy fitness", "--rank"):
        _add_column(shown, header)
    largest = max((operations for operations, leads, _ in sizes if leads), default=0)
    for operations, leads, one in sizes:
        if operations <= largest:
            race = UNKNOWN if one.standing is None else family.deciding.text(*one.standing.value(family.decides))
            name = ("* " if leads else "  ") + evolved_name(one.rank, str(one.expression))
            shown.add_row(str(operations), name, race, real(one.fitness), str(one.rank))
    return _unbroken(shown)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=HORIZONTALS, pad_edge=False, padding=(0, 1, 0, 0))


def _unbroken(table: Table, first: int = 0) -> Table:
    """The same table: where the terminal is narrow its headers are broken into lines, and no number is in the columns
    from ``first`` on."""
    for column in table.columns[first:]:
        if not column.no_wrap:
            column.min_width = max(map(cell_len, map(str, column.cells)), default=0)
    return table


def _add_column(table: Table, header: str, is_text: bool = False) -> None:
    if is_text:
        table.add_column(header, no_wrap=True, overflow="ellipsis", max_width=NAME)
    else:
        table.add_column(header, justify="right", no_wrap=False, overflow="fold")


def numbers_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of names, which may be long and are broken where the terminal is narrow, and numbers, which are not."""
    shown = _table(title)
    shown.add_column(headers[0], overflow="fold", min_width=12)
    for header in headers[1:]:
        _add_column(shown, header)
    for row in rows:
        shown.add_row(*row)
    return _unbroken(shown, 1)


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """A table of texts."""
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def screens_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each screen and training took and turned away."""
    cells = [
        [row["name"], f"{row['asked']:,}", f"{row['turned_away']:,}", f"{row['seconds']:.1f}",
         f"{1000 * row['seconds'] / max(1, row['asked']):.1f}"]
        for row in rows
    ]  # fmt: skip
    return numbers_table("screens", ("", "asked", "turned away", "seconds", "ms each"), cells)


def front_table(evaluations: Sequence[StoredEvaluation], objectives: Sequence[str]) -> Table:
    """The distillers that no other beats in all objectives."""
    rows = [[*(f"{e.metrics[name]:.4g}" for name in objectives), e.expression] for e in evaluations]
    return plain_table([*objectives, "distiller"], rows, "front")


def show(console: Console, table: RenderableType) -> None:
    """Print a table, in full width where the output is no terminal."""
    if not console.is_terminal:
        console = Console(file=console.file, width=UNLIMITED)
    console.print(table)


def counts_line(counts: Mapping[str, int]) -> str:
    """What became of the births, in words; the numbers behind the colon add up to the one before it."""
    births, *fates = counts.items()
    return f"{births[1]:,} births: " + ", ".join(f"{count:,} {name}" for name, count in fates)
