"""The commands that search: evolve and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import (
    PRECISION,
    THREADS,
    WORKER_OPTIONS,
    GroupedCommand,
    data_of,
    search_options,
    with_options,
)
from kdzero_gp.errors import SettingError
from kdzero_gp.search.options import DEFAULT_TASK

FINAL_OPTIONS = (
    click.option("--final", type=int, metavar="N", help="Then train the N best and the published methods in rungs of "
                 "growing length, and keep the best student."),
    click.option("--final-recipe", help="cifar100, imagenet, vit, short, or a .toml [default: short]."),
    click.option("--final-epochs", type=float, help="In place of the recipe's."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@search_options
@with_options(WORKER_OPTIONS, FINAL_OPTIONS)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Options from a file, such as the "
              "config.toml of another run; those that are given here win.")  # fmt: skip
@click.pass_context
def evolve(ctx: click.Context, config: Path | None, **options: Any) -> None:
    """Search for the loss with which a student learns best from a teacher.

    A search makes births: new losses (distillers), bred from good ones. Most are judged by a proxy, a short training
    that starts from the warm student, one that has learnt without a teacher for a while. The best then race in longer
    trainings. A magnitude is relative: the size of a term's gradient in units of the cross-entropy's. A tap names the
    layer that a tensor is read from.
    """
    from kdzero_gp.api import search
    from kdzero_gp.api.progress import progress_for
    from kdzero_gp.search.config import with_config

    options = with_config(options, config)
    final = _final_options(options)
    task = options.pop("task") or DEFAULT_TASK
    folder = options.pop("out") or search.next_folder(task)
    ctx.obj["folder"] = folder
    with progress_for(console) as progress:
        data = data_of(options)
        run = search.evolve(
            options.pop("teacher"), options.pop("student"), data, task=task, out=folder, progress=progress, **options
        )
    _conclude(run.result)
    _final(run, final, options)


def _conclude(result: Any) -> None:
    from kdzero_gp.cli.tables import confirmation_table, race_table, show, width_of

    width = width_of(console)
    show(console, race_table(result.table, result.family, width))
    if result.fresh:
        show(console, confirmation_table(result.fresh, result.table, result.family))
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
    if result.pruning is not None:
        lines += result.pruning.lines(result.family.deciding)
    if result.verdict is not None:
        lines += result.verdict.lines
    else:
        best = result.table[0].entry
        if best.kind != "evolved":
            lines.append(f"{best.title} did better in this race")
            if best.kind == "zoo":
                lines[-1] += f"; take it with: kdzero-gp export {result.folder} --method {best.name}"
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
@click.option("--generations", type=int, help="So many in all, more than the run was started with.")
@with_options(WORKER_OPTIONS, (PRECISION, THREADS), FINAL_OPTIONS)
@click.pass_context
def resume(ctx: click.Context, folder: Path, **options: Any) -> None:
    """Go on with an interrupted run. --precision and --threads must be those that it has."""
    from kdzero_gp.api.progress import progress_for
    from kdzero_gp.api.search import Run

    ctx.obj["folder"] = folder
    final = _final_options(options)
    with progress_for(console) as progress:
        run = Run(folder).resume(progress=progress, **options)
    _conclude(run.result)
    _final(run, final, options)


def _final_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the trainings after a search, taken out of the others. Raises SettingError for useless ones."""
    count, recipe, epochs = (options.pop(name) for name in ("final", "final_recipe", "final_epochs"))
    if count is None and (recipe or epochs):
        raise SettingError("--final-recipe and --final-epochs have no effect without --final; add it, for example 8")
    if count is not None and count < 1:
        raise SettingError(f"--final must be at least 1, got {count}")
    if recipe is not None:
        from kdzero_gp.engine.recipe import load_recipe

        load_recipe(recipe)  # before a search of hours
    return {"count": count, "recipe": recipe or "short", "changes": {"epochs": epochs} if epochs else None}


def _final(run: Any, final: dict[str, Any], options: dict[str, Any]) -> None:
    """The trainings after the search, where they are asked for."""
    if final["count"] is None:
        return
    from kdzero_gp.api.progress import progress_for
    from kdzero_gp.cli.train import show_halving
    from kdzero_gp.engine.machine import Machine

    machine = Machine(options["device"], options["workers"], gpu_share=options["gpu_share"])
    with progress_for(console) as progress:
        halving = run.final(**final, machine=machine, progress=progress)
    show_halving(halving)
