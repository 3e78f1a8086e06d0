"""What ``show`` prints of several runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdzero_gp.analysis.names import ingredients
from kdzero_gp.cli import tables
from kdzero_gp.cli.app import console
from kdzero_gp.common import UNKNOWN, real

if TYPE_CHECKING:
    from kdzero_gp.analysis.several import Found, Runs


def show_several(folders: Sequence[Path], top: int, as_json: bool) -> None:
    """The runs, and the best distillers of all of them in one ranking."""
    from kdzero_gp.analysis.several import Runs

    runs = Runs(folders)
    if as_json:
        click.echo(json.dumps(_as_data(runs, top), indent=1, default=list))
        return
    rows = runs.rows()
    for row in rows:
        state = "finished" if row["finished"] else "not finished"
        click.echo(f"{row['folder']}: {state}, seed {row['seed']}, {tables.counts_line(row['counts'])}")
    found = runs.top(top)
    tables.show(console, _ranking(runs, found))
    for one in found:
        click.echo(f"{one.rank}: {one.distiller.expression}")
    for row in rows:
        for line in (row["verdict"] or ())[:1]:
            click.echo(f"{row['folder']}: {line}")
    for line in runs.notes:
        click.echo(line)
    if found:
        click.echo(
            f"export the best with: kdzero-gp export {found[0].distiller.folder} --rank {found[0].distiller.rank}"
        )


def _ranking(runs: Runs, found: Sequence[Found]) -> Any:
    deciding, proxied = runs.family.deciding, runs.family.of_proxies
    headers = ["", "distiller", f"race {deciding.heading}", "proxy fitness", f"proxy {proxied.heading}", "found as"]
    rows = []
    for one in found:
        race = one.distiller.standing
        rows.append([
            str(one.rank), ingredients(str(one.distiller.expression)),
            UNKNOWN if race is None else deciding.text(*race.value(deciding.name)), real(one.distiller.fitness),
            proxied.text(one.distiller.metrics.get(proxied.name, math.nan)), ", ".join(one.places),
        ])  # fmt: skip
    title = f"the best of {len(runs.runs)} runs, by race and fitness (lower is better)"
    return tables.plain_table(headers, rows, title)


def _as_data(runs: Runs, top: int) -> dict[str, Any]:
    return {
        "runs": [row | {"folder": str(row["folder"]), "best": row["best"] and row["best"].digest}
                 for row in runs.rows()],
        "top": [
            one.distiller.as_dict() | {"rank": one.rank, "run": str(one.distiller.folder), "places": one.places}
            for one in runs.top(top)
        ],
        "notes": runs.notes,
    }  # fmt: skip
