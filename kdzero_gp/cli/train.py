"""The commands that train for real: train, distill and compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import INTERRUPTED, console
from kdzero_gp.cli.options import (
    CHANNELS,
    DATA,
    DEVICE,
    IMAGE_SIZE,
    MAPS,
    NETWORK,
    PAIR_OPTIONS,
    PRECISION,
    TAP,
    TASK,
    TASK_OF_RUN,
    THREADS,
    data_of,
    some_search_options,
    taps,
    taps_of_both,
    with_options,
)  # fmt: skip
from kdzero_gp.errors import SettingError

RECIPE = click.option(
    "--recipe", default="short", show_default=True, help="cifar100, imagenet, vit, short, or a .toml."
)
RECIPE_OF_RUN = click.option("--recipe", help="cifar100, imagenet, vit, short, or a .toml [default: as the run's race "
                             "trained new students, or short].")  # fmt: skip
RECIPE_OPTIONS = (
    click.option("--epochs", type=int, help="In place of the recipe's; its milestones move along."),
    click.option("--batch-size", type=int, help="In place of the recipe's."),
    click.option("--lr", "learning_rate", type=float, help="In place of the recipe's."),
    click.option("--weight-decay", type=float, help="In place of the recipe's."),
    IMAGE_SIZE,
    CHANNELS,
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
    click.option("--out", type=click.Path(path_type=Path), help="Folder of the results [default: runs/NAME-COMMAND]."),
)
_WEIGHTS = (
    some_search_options(
        ["--teacher-weights", "--teacher-mean", "--teacher-std", "--student-weights", "--student-mean", "--student-std"]
    ),
)
_SHADOW = click.option(
    "--shadow", type=click.Choice(["teacher", "student"]),
    help="One more class head, a copy of the student's, during the training: on the teacher's maps it is trained and "
    "teaches, too; on the student's it takes the distiller's loss. For segmentation and detection.",
)  # fmt: skip
_INHERIT = click.option(
    "--inherit-head", is_flag=True,
    help="Every student, the one alone too, starts with those weights of the teacher's neck and head that fit it; for "
    "networks with a backbone.",
)  # fmt: skip
# The best of more rows than this has luck in it that a reader should know of.
FEW = 4
_BOARD = click.option("--tensorboard", is_flag=True, help="Write event files, too.")


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the recipe that the command line overrides."""
    named = ("epochs", "batch_size", "learning_rate", "weight_decay")
    changes = {name: options[name] for name in named if options[name] is not None}
    if options["image_size"] is not None:
        height, width = options["image_size"]
        changes |= {"image_size": height, "image_width": 0 if width == height else width}
    for text in options["changes"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"--set takes NAME=VALUE, for example momentum=0.95, got {text!r}")
        changes[name.strip()] = value.strip()
    return changes


def _pair(options: dict[str, Any]) -> dict[str, Any]:
    """What ``distill`` and ``compare`` have in common, as the functions take it. What is not given stays out, so that a
    run can bring it."""
    teacher_taps, student_taps = taps_of_both(options)
    names = ("recipe", "out", "seed", "device", "threads", "precision", "readers", "workers", "task", "teacher_weights",
             "student_weights", "channels", "shadow", "teacher_mean", "teacher_std", "student_mean",
             "student_std")  # fmt: skip
    pair = {name: options[name] for name in names if options.get(name) is not None}
    pair |= {"inherit_head": True} if options["inherit_head"] else {}  # else as the run has it
    pair |= {"teacher_taps": teacher_taps or None, "student_taps": student_taps or None}
    return pair | {"validate": options["validation"], "changes": _changes(options)}


def _machine(options: dict[str, Any]) -> Any:
    from kdzero_gp.engine.machine import Machine

    names = ("device", "threads", "precision", "readers", "workers")
    return Machine(**{name: options[name] for name in names if name in options})


@contextlib.contextmanager
def _resumable(ctx: click.Context) -> Iterator[Any]:
    """Progress, and a hint how to go on after Ctrl-C."""
    from kdzero_gp.api.progress import progress_for

    try:
        with progress_for(console) as progress:
            yield progress
    except KeyboardInterrupt:
        click.echo("interrupted; all whole epochs are kept, go on with the same command", err=True)
        ctx.exit(INTERRUPTED)


def _conclude(result: Any, out: Path, task: str, weights: str = "student.safetensors") -> None:
    from kdzero_gp.tasks import get

    deciding = get(task).family.deciding

    def shown(measures: dict[str, float]) -> str:
        return f"{deciding.text(measures[deciding.name])} {deciding.unit}".strip() if measures else "not measured"

    which = f"weights after epoch {result.best_epoch}"
    if result.validation:
        which = f"weights of epoch {result.best_epoch}, validation {shown(result.validation)}"
    click.echo(f"test {shown(result.test)} ({which}); {result.step_milliseconds:.1f} ms a step")
    click.echo(f"wrote {out / weights}, result.json and log.csv beside it")


@click.command()
@click.option("--model", required=True, help=NETWORK)
@click.option("--backbone", help="Weights for the part of the network that is called backbone, such as ImageNet's.")
@TAP
@with_options((TASK, DATA, MAPS), (RECIPE,), RECIPE_OPTIONS, MACHINE_OPTIONS)
@_BOARD
@click.pass_context
def train(ctx: click.Context, model: str, **options: Any) -> None:
    """Train a network alone, for example a teacher. The same command goes on after an interruption."""
    from kdzero_gp import training

    out = options["out"] or Path("runs") / f"{options['task']}-{model.rpartition(':')[2]}"
    with _resumable(ctx) as progress:
        result = training.train(
            options["task"], model, out=out, data=data_of(options), recipe=options["recipe"], seed=options["seed"],
            changes=_changes(options), taps=taps(options["tap"], "--tap"), validate=options["validation"],
            channels=options["channels"],
            machine=_machine(options), progress=progress, tensorboard=options["tensorboard"],
            backbone=options["backbone"],
        )  # fmt: skip
    weights = "network.safetensors"
    _conclude(result, out, options["task"], weights)
    click.echo(f"next: kdzero-gp evolve --task {options['task']} --teacher {model} --teacher-weights {out / weights} …")


@click.command()
@with_options((TASK_OF_RUN, DATA, MAPS), PAIR_OPTIONS, _WEIGHTS, (_INHERIT, _SHADOW))
@click.option("--distiller", required=True, metavar="FILE|EXPR|zoo:NAME|run:DIR[#RANK]", help="What to distil with; "
              "@linear behind it lets its magnitude fall, @early ends it after two thirds of the steps.")  # fmt: skip
@click.option("--magnitude", help="relative, joint or absolute [default: absolute for files and runs, joint for the "
              "zoo, relative for expressions].")  # fmt: skip
@with_options((RECIPE_OF_RUN,), RECIPE_OPTIONS, MACHINE_OPTIONS)
@_BOARD
@click.pass_context
def distill(ctx: click.Context, distiller: str, magnitude: str | None, **options: Any) -> None:
    """Train a student with a distiller. The same command goes on after an interruption. run:DIR is a run's winner, a
    published method perhaps; of the run, the task, data, networks, taps, weights and the recipe of its race are taken
    unless they are given."""
    from kdzero_gp.api.training import distill as distil

    with _resumable(ctx) as progress:
        result = distil(
            options["teacher"], options["student"], distiller, data_of(options), magnitude=magnitude, progress=progress,
            tensorboard=options["tensorboard"], **_pair(options),
        )  # fmt: skip
    _conclude(result, result.folder, result.task)


@click.command()
@click.argument("named", nargs=-1, metavar="[DISTILLER]…")
@with_options((TASK_OF_RUN, DATA, MAPS), PAIR_OPTIONS, _WEIGHTS, (_INHERIT, _SHADOW))
@click.option("--distiller", "distillers", multiple=True, metavar="FILE|EXPR|zoo:NAME|run:DIR[#RANK]",
              help="What to compare, with @linear or @early behind it as in distill; kd and cross-entropy alone (ce) "
              "always take part.")  # fmt: skip
@click.option("--seeds", type=int, help="Trainings of each [default: 5; with --halving 1].")
@click.option("--factors", default="0.3,1,3", show_default=True, help="Magnitudes that each is tuned among.")
@click.option("--tune-epochs", type=int, help="Budget of the tuning [default: a quarter of the recipe's epochs].")
@click.option("--halving", is_flag=True, help="Train all for 1/9 of the epochs, the better half for 1/3, half of "
              "these to the end; keep the winner's student.")  # fmt: skip
@click.option("--fresh-seeds", type=int, help="With --halving: seeds that choose nothing and report [default: 3].")
@click.option("--workers", type=int, help="Trainings at once [default: one for each core, one on a GPU].")
@with_options((RECIPE_OF_RUN,), RECIPE_OPTIONS, MACHINE_OPTIONS)
@click.pass_context
def compare(
    ctx: click.Context, named: tuple[str, ...], distillers: tuple[str, ...], factors: str, **options: Any
) -> None:
    """Compare distillers: one budget, tuned magnitudes, the same seeds. The same command goes on. Of a run that is
    named, the task, data, networks, taps and weights are taken unless they are given."""
    from kdzero_gp.api.training import compare as compare_distillers

    try:
        grid = [float(factor) for factor in factors.split(",")]
    except ValueError:
        raise SettingError(f"--factors takes numbers such as 0.3,1,3, got {factors!r}") from None
    with _resumable(ctx) as progress:
        comparison = compare_distillers(
            options["teacher"], options["student"], [*named, *distillers], data_of(options), seeds=options["seeds"],
            factors=grid, tune_epochs=options["tune_epochs"], halving=options["halving"],
            fresh_seeds=options["fresh_seeds"], progress=progress, **_pair(options),
        )  # fmt: skip
    if options["halving"]:
        show_halving(comparison)
    else:
        _show(comparison, comparison.measure)


def show_halving(halving: Any) -> None:
    """The rungs' tables, what they say of each other, the finalists on fresh seeds and the verdict."""
    for rung in halving.rungs:
        _table(rung.rows, halving.measure, f"{rung.epochs:.3g} epochs, {_over(rung.seeds)}", "validation")
        for sentence in rung.sentences:
            click.echo(sentence)
    seeds = max(row.seeds for row in halving.fresh)
    _table(halving.fresh, halving.measure, f"confirmation that chose nothing, {_over(seeds)}")
    for line in halving.verdict.lines:
        click.echo(line)
    click.echo(
        f"wrote {halving.student} ({halving.verdict.winner}), distiller.py, halving.json and halving.csv beside it"
    )


def _over(seeds: int) -> str:
    from kdzero_gp.common import LEAST_VALUES

    number = f"{seeds} seed{'s' if seeds > 1 else ''}"
    return f"{number}, mean ± 95 % interval" if seeds >= LEAST_VALUES else f"{number}, too few for an interval"


def _show(comparison: Any, deciding: Any) -> None:
    _table(comparison.rows, deciding, _over(max(row.seeds for row in comparison.rows)))
    if len(comparison.rows) > FEW:
        click.echo("the first of many is flattered: --halving confirms the best on seeds that chose nothing")
    click.echo(f"wrote {comparison.folder / 'compare.json'}, compare.csv and compare.png beside it")


def _table(found: Any, deciding: Any, title: str, images: str = "test") -> None:
    from kdzero_gp.cli.tables import numbers_table, show

    rows: list[list[str]] = []
    below: list[str] = []
    for number, row in enumerate(found, 1):
        name = row.name
        if "(" in name:
            name = f"expression {number}"
            below.append(f"expression {number}: {row.name}")
        if row.reason:
            below.append(f"{row.name} has no result: {row.reason}")
            continue
        tested = images == "test"
        rows.append([
            name, "–" if row.factor is None else f"{row.factor:g}",
            deciding.text(row.test if tested else row.validation, row.interval),
            deciding.difference(row.difference, row.difference_interval),
            *([deciding.text(row.validation)] if tested else []),
            f"{row.milliseconds:.1f}", f"{row.megabytes:.0f}",
        ])  # fmt: skip
    other = [f"validation {deciding.heading}"] if images == "test" else []
    headers = ["distiller", "factor", f"{images} {deciding.heading}", "to kd", *other, "ms/step", "MB"]
    show(console, numbers_table(title, headers, rows))
    for line in below:
        click.echo(line)
