"""The commands that search: evolve and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import PRECISION, THREADS, WORKER_OPTIONS, search_options, with_options
from kdzero_gp.errors import SettingError
from kdzero_gp.search.options import settings_from

FINAL_OPTIONS = (
    click.option("--final", type=int, metavar="N", help="Then train the N best and the published methods in rungs of "
                 "growing length, and keep the best student."),
    click.option("--final-recipe", help="cifar100, imagenet, vit, short, or a .toml [default: short]."),
    click.option("--final-epochs", type=float, help="In place of the recipe's."),
)  # fmt: skip


@click.command()
@search_options
@with_options(WORKER_OPTIONS, FINAL_OPTIONS)
@click.pass_context
def evolve(ctx: click.Context, **options: Any) -> None:
    """Search for the best distiller of a teacher-student pair."""
    from kdzero_gp.cli.progress import progress_for
    from kdzero_gp.engine.machine import Machine
    from kdzero_gp.search.run import start

    _refuse_useless(options)
    settings = settings_from(options)
    folder = options["out"] or _next_folder(settings.task)
    ctx.obj["folder"] = folder
    machine = Machine(device=options["device"], workers=options["workers"], timeout=options["timeout"])
    console.print(f"run folder: {folder}", highlight=False, markup=False, soft_wrap=True)
    with progress_for(console) as progress:
        result = start(folder, settings, machine, progress)
    _conclude(result)
    _final(folder, options)


def _next_folder(task: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{task}-{number}").exists():
        number += 1
    return folder


def _conclude(result: Any) -> None:
    from kdzero_gp.cli.tables import confirmation_table, race_table, show

    show(console, race_table(result.table, result.family))
    if result.fresh:
        show(console, confirmation_table(result.fresh, result.family))
    for line in _conclusion(result):
        click.echo(line)


def _conclusion(result: Any) -> list[str]:
    if result.exported is None:
        if any(row.entry.kind == "evolved" for row in result.table):
            return [f"no evolved distiller finished the race; look at the reasons with: kdzero-gp show {result.folder}"]
        return [
            "nothing but published methods was bred and trained; give more --generations or a larger --pop in another "
            f"--out (what was turned away: kdzero-gp show {result.folder})"
        ]
    lines = [] if result.winner is None else [f"best evolved distiller: {result.winner.entry.expression}"]
    if result.verdict is not None:
        lines += result.verdict.lines
    else:
        best = result.table[0].entry
        if best.kind != "evolved":
            lines.append(f"{best.title} did better in this race")
        lines.append("not confirmed on fresh seeds, so its lead is flattered: --fresh-seeds 20")
    won = result.verdict
    what = "the evolved distiller" if won is None or won.winner == won.evolved else won.winner
    return [
        *lines,
        f"exported {what} to {result.exported} (needs only torch): "
        "add Distiller()(student, teacher, labels) to your cross-entropy",
        f"next: kdzero-gp show {result.folder}    kdzero-gp inspect {result.folder} -o tree.svg",
    ]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@with_options(WORKER_OPTIONS, (PRECISION, THREADS), FINAL_OPTIONS)
@click.pass_context
def resume(ctx: click.Context, folder: Path, **options: Any) -> None:
    """Go on with an interrupted run. --precision and --threads must be those that it has."""
    from kdzero_gp.cli.progress import progress_for
    from kdzero_gp.engine.machine import Machine
    from kdzero_gp.search.run import resume as resume_run

    ctx.obj["folder"] = folder
    _refuse_useless(options)
    with progress_for(console) as progress:
        machine = {name: value for name, value in options.items() if not name.startswith("final")}
        result = resume_run(folder, Machine(**machine), progress)
    _conclude(result)
    _final(folder, options)


def _refuse_useless(options: dict[str, Any]) -> None:
    if options["final"] is None and (options["final_recipe"] or options["final_epochs"]):
        raise SettingError("--final-recipe and --final-epochs have no effect without --final; add it, for example 8")
    if options["final"] is not None and options["final"] < 1:
        raise SettingError(f"--final must be at least 1, got {options['final']}")


def _final(folder: Path, options: dict[str, Any]) -> None:
    """The trainings after the search, where they are asked for."""
    if options["final"] is None:
        return
    from kdzero_gp.cli.progress import progress_for
    from kdzero_gp.cli.train import show_halving
    from kdzero_gp.engine.machine import Machine
    from kdzero_gp.search.final import final

    changes = {"epochs": options["final_epochs"]} if options["final_epochs"] else None
    machine = Machine(device=options["device"], workers=options["workers"])
    with progress_for(console) as progress:
        found = final(
            folder, options["final"], recipe=options["final_recipe"] or "short", changes=changes, machine=machine,
            progress=progress,
        )  # fmt: skip
    show_halving(found)
