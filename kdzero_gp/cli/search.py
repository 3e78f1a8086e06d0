"""The commands that search: evolve and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import PRECISION, THREADS, WORKER_OPTIONS, search_options, with_options

# Where nothing is said.
DEFAULT_TASK = "digits"


@click.command()
@search_options
@with_options(WORKER_OPTIONS)
@click.pass_context
def evolve(ctx: click.Context, **options: Any) -> None:
    """Search for the best distiller of a teacher-student pair."""
    from kdzero_gp.api import search
    from kdzero_gp.api.progress import progress_for

    task = options.pop("task") or DEFAULT_TASK
    folder = options.pop("out") or search.next_folder(task)
    ctx.obj["folder"] = folder
    with progress_for(console) as progress:
        run = search.evolve(
            options.pop("teacher"), options.pop("student"), options.pop("data"), task=task, out=folder,
            progress=progress, **options,
        )  # fmt: skip
    _conclude(run.result)


def _conclude(result: Any) -> None:
    from kdzero_gp.cli.tables import race_table, show

    show(console, race_table(result.table, result.family))
    for line in _conclusion(result):
        click.echo(line)


def _conclusion(result: Any) -> list[str]:
    if result.winner is None:
        return [f"no evolved distiller finished the race; look at the reasons with: kdzero-gp show {result.folder}"]
    winner, best = result.winner, result.table[0]
    lines = [f"best evolved distiller: {winner.entry.expression}"]
    if best.entry.kind != "evolved":
        lines.append(f"{best.entry.title} did better in this race; more --generations may change that")
    return [
        *lines,
        f"exported to {result.exported} (needs only torch): "
        "add Distiller()(student, teacher, labels) to your cross-entropy",
        f"next: kdzero-gp show {result.folder}    kdzero-gp inspect {result.folder} -o tree.svg",
    ]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@with_options(WORKER_OPTIONS, (PRECISION, THREADS))
@click.pass_context
def resume(ctx: click.Context, folder: Path, **options: Any) -> None:
    """Go on with an interrupted run. --precision and --threads must be those that it has."""
    from kdzero_gp.api.progress import progress_for
    from kdzero_gp.api.search import Run

    ctx.obj["folder"] = folder
    with progress_for(console) as progress:
        run = Run(folder).resume(progress=progress, **options)
    _conclude(run.result)
