"""The commands that search: evolve and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import PRECISION, THREADS, WORKER_OPTIONS, search_options, with_options
from kdzero_gp.search.options import settings_from


@click.command()
@search_options
@with_options(WORKER_OPTIONS)
@click.pass_context
def evolve(ctx: click.Context, **options: Any) -> None:
    """Search for the best distiller of a teacher-student pair."""
    from kdzero_gp.api.progress import progress_for
    from kdzero_gp.engine.machine import Machine
    from kdzero_gp.search.run import start

    settings = settings_from(options)
    folder = options["out"] or _next_folder(settings.task)
    ctx.obj["folder"] = folder
    machine = Machine(device=options["device"], workers=options["workers"], timeout=options["timeout"])
    console.print(f"run folder: {folder}", highlight=False, markup=False, soft_wrap=True)
    with progress_for(console) as progress:
        result = start(folder, settings, machine, progress)
    _conclude(result)


def _next_folder(task: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{task}-{number}").exists():
        number += 1
    return folder


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
    from kdzero_gp.engine.machine import Machine
    from kdzero_gp.search.run import resume as resume_run

    ctx.obj["folder"] = folder
    with progress_for(console) as progress:
        result = resume_run(folder, Machine(**options), progress)
    _conclude(result)
