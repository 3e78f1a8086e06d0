"""The commands that train for real: train, distill and compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import INTERRUPTED, console
from kdzero_gp.cli.options import (
    DATA,
    DEVICE,
    MAPS,
    NETWORK,
    PAIR_OPTIONS,
    PRECISION,
    TAP,
    TASK,
    THREADS,
    data_of,
    taps,
    taps_of_both,
    with_options,
)  # fmt: skip
from kdzero_gp.errors import SettingError

RECIPE_OPTIONS = (
    click.option("--recipe", default="short", show_default=True, help="A packaged recipe, such as short, or a .toml."),
    click.option("--epochs", type=int, help="In place of the recipe's; its milestones move along."),
    click.option("--batch-size", type=int, help="In place of the recipe's."),
    click.option("--lr", "learning_rate", type=float, help="In place of the recipe's."),
    click.option("--weight-decay", type=float, help="In place of the recipe's."),
    click.option("--image-size", type=int, help="What the networks see, in place of the recipe's."),
    click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Any other field of the recipe."),
    click.option("--validation/--no-validation", default=True, show_default=True,
                 help="Choose the final weights by validation images, or train on these too and take the last."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
)  # fmt: skip
MACHINE_OPTIONS = (
    DEVICE,
    THREADS,
    PRECISION,
    click.option("--readers", type=int, default=0, show_default=True, help="Processes that read single images."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results."),
)
_WEIGHTS = click.option("--teacher-weights", help="Safetensors file or state dict of the teacher.")
_BOARD = click.option("--tensorboard", is_flag=True, help="Write event files, too.")


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the recipe that the command line overrides."""
    named = ("epochs", "batch_size", "learning_rate", "weight_decay", "image_size")
    changes = {name: options[name] for name in named if options[name] is not None}
    for text in options["changes"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"--set takes NAME=VALUE, for example momentum=0.95, got {text!r}")
        changes[name.strip()] = value.strip()
    return changes


def _pair(options: dict[str, Any]) -> Any:
    from kdzero_gp.training.api import Pair

    return Pair(
        options["task"], options["student"], options["teacher"], options["teacher_weights"], data_of(options),
        options["recipe"], _changes(options), *taps_of_both(options), options["validation"],
    )  # fmt: skip


def _machine(options: dict[str, Any]) -> Any:
    from kdzero_gp.engine.machine import Machine

    names = ("device", "threads", "precision", "readers", "workers")
    return Machine(**{name: options[name] for name in names if name in options})


def _distiller(text: str) -> Any:
    """What ``--distiller`` names: a run's winner is looked up here, everything else by the training."""
    if not text.startswith("run:"):
        return text
    from kdzero_gp.analysis.run import Run
    from kdzero_gp.training.distillers import NamedDistiller

    folder, _, rank = text.removeprefix("run:").partition("#")
    if not Path(folder).is_dir() or (rank and not rank.isdigit()):
        raise SettingError(f"--distiller {text!r} does not name a run; write run:DIR or run:DIR#RANK of kdzero-gp show")
    distiller = Run(folder).find(int(rank or 1))
    name = Path(folder).name + (f"#{rank}" if rank else "")
    return NamedDistiller(name, distiller.expression, distiller.magnitudes)


@contextlib.contextmanager
def _resumable(ctx: click.Context) -> Iterator[Any]:
    """Progress, and a hint how to go on after Ctrl-C."""
    from kdzero_gp.cli.progress import progress_for

    try:
        with progress_for(console) as progress:
            yield progress
    except KeyboardInterrupt:
        click.echo("interrupted; all whole epochs are kept, go on with the same command", err=True)
        ctx.exit(INTERRUPTED)


def _conclude(result: Any, out: Path, task: str) -> None:
    from kdzero_gp.tasks import get

    deciding = get(task).family.deciding

    def shown(measures: dict[str, float]) -> str:
        return f"{deciding.text(measures[deciding.name])} {deciding.unit}".strip() if measures else "not measured"

    which = f"weights after epoch {result.best_epoch}"
    if result.validation:
        which = f"weights of epoch {result.best_epoch}, validation {shown(result.validation)}"
    click.echo(f"test {shown(result.test)} ({which}); {result.step_milliseconds:.1f} ms a step")
    click.echo(f"wrote {out / 'student.safetensors'}, result.json and log.csv beside it")


@click.command()
@click.option("--model", required=True, help=NETWORK)
@click.option("--backbone", help="Weights for the part of the network that is called backbone, such as ImageNet's.")
@TAP
@with_options((TASK, DATA), MAPS, RECIPE_OPTIONS, MACHINE_OPTIONS)
@_BOARD
@click.pass_context
def train(ctx: click.Context, model: str, **options: Any) -> None:
    """Train a network alone, for example a teacher. The same command goes on after an interruption."""
    from kdzero_gp import training

    out = options["out"]
    with _resumable(ctx) as progress:
        result = training.train(
            options["task"], model, out=out, data=data_of(options), recipe=options["recipe"], seed=options["seed"],
            changes=_changes(options), taps=taps(options["tap"], "--tap"), validate=options["validation"],
            machine=_machine(options), progress=progress, tensorboard=options["tensorboard"],
            backbone=options["backbone"],
        )  # fmt: skip
    _conclude(result, out, options["task"])
    click.echo(f"next: kdzero-gp distill --teacher {model} --teacher-weights {out / 'student.safetensors'} …")


@click.command()
@with_options((TASK, DATA), MAPS, PAIR_OPTIONS, (_WEIGHTS,))
@click.option("--distiller", required=True, metavar="FILE|EXPR|zoo:NAME|run:DIR[#RANK]", help="What to distil with.")
@click.option("--magnitude", help="relative, joint or absolute [default: absolute for files and runs, joint for the "
              "zoo, relative for expressions].")  # fmt: skip
@with_options(RECIPE_OPTIONS, MACHINE_OPTIONS)
@_BOARD
@click.pass_context
def distill(ctx: click.Context, distiller: str, magnitude: str | None, **options: Any) -> None:
    """Train a student with a distiller. The same command goes on after an interruption."""
    from kdzero_gp import training

    with _resumable(ctx) as progress:
        result = training.distill(
            _pair(options), _distiller(distiller), out=options["out"], seed=options["seed"], magnitude=magnitude,
            machine=_machine(options), progress=progress, tensorboard=options["tensorboard"],
        )  # fmt: skip
    _conclude(result, options["out"], options["task"])


@click.command()
@with_options((TASK, DATA), MAPS, PAIR_OPTIONS, (_WEIGHTS,))
@click.option("--distiller", "distillers", multiple=True, required=True, metavar="FILE|EXPR|zoo:NAME|run:DIR[#RANK]",
              help="What to compare; kd and cross-entropy alone (ce) always take part.")  # fmt: skip
@click.option("--seeds", type=int, default=5, show_default=True, help="Trainings of each.")
@click.option("--factors", default="0.3,1,3", show_default=True, help="Magnitudes that each is tuned among.")
@click.option("--tune-epochs", type=int, help="Budget of the tuning [default: a quarter of the recipe's epochs].")
@click.option("--workers", type=int, help="Trainings at once [default: one for each core, one on a GPU].")
@with_options(RECIPE_OPTIONS, MACHINE_OPTIONS)
@click.pass_context
def compare(ctx: click.Context, distillers: tuple[str, ...], factors: str, **options: Any) -> None:
    """Compare distillers: one budget, tuned magnitudes, the same seeds. The same command goes on."""
    from kdzero_gp import training
    from kdzero_gp.tasks import get

    try:
        grid = [float(factor) for factor in factors.split(",")]
    except ValueError:
        raise SettingError(f"--factors takes numbers such as 0.3,1,3, got {factors!r}") from None
    with _resumable(ctx) as progress:
        comparison = training.compare(
            _pair(options), [_distiller(text) for text in distillers], out=options["out"], seeds=options["seeds"],
            factors=grid, tune_epochs=options["tune_epochs"], seed=options["seed"],
            machine=_machine(options), progress=progress,
        )  # fmt: skip
    _show(comparison, get(options["task"]).family.deciding)


def _show(comparison: Any, deciding: Any) -> None:
    from kdzero_gp.cli.tables import plain_table, show

    rows = []
    for row in comparison.rows:
        if row.reason:
            rows.append([row.name, row.reason, "", "", "", "", ""])
            continue
        rows.append([
            row.name, "–" if row.factor is None else f"{row.factor:g}", deciding.text(row.test, row.interval),
            deciding.difference(row.difference, row.difference_interval), deciding.text(row.validation),
            f"{row.milliseconds:.1f}", f"{row.megabytes:.0f}",
        ])  # fmt: skip
    seeds = max(row.seeds for row in comparison.rows)
    headers = [
        "distiller",
        "factor",
        f"test {deciding.heading}",
        "to kd",
        f"validation {deciding.heading}",
        "ms/step",
        "MB",
    ]
    table = plain_table(headers, rows)
    table.title, table.title_justify = f"{seeds} seeds, mean ± 95 % interval", "left"
    show(console, table)
    click.echo(f"wrote {comparison.folder / 'compare.json'}, compare.csv and compare.png beside it")
