"""The commands that train for real: train, distill and compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import INTERRUPTED, console
from kdzero_gp.cli.options import taps, with_options
from kdzero_gp.errors import SettingError

_NETWORK = "Built-in name, timm:NAME, torchvision:NAME or module:callable."
DATA_OPTIONS = (
    click.option("--task", default="digits", show_default=True, help="digits, cifar10, cifar100 or folder."),
    click.option("--data", help="Archive, image folder or zip of the task's images."),
)
PAIR_OPTIONS = (
    click.option("--teacher", required=True, help=_NETWORK),
    click.option("--teacher-weights", help="Safetensors file or state dict of the teacher."),
    click.option("--student", required=True, help="As --teacher."),
    click.option("--tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge of both."),
    click.option("--teacher-tap", multiple=True, metavar="NAME=LAYER", help="Where to read the teacher's."),
    click.option("--student-tap", multiple=True, metavar="NAME=LAYER", help="Where to read the student's."),
)
RECIPE_OPTIONS = (
    click.option("--recipe", default="short", show_default=True, help="cifar100, imagenet, vit, short, or a .toml."),
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
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option("--threads", type=int, help="Of torch on a CPU [default: all cores; 1 in compare and for digits]."),
    click.option("--readers", type=int, default=0, show_default=True, help="Processes that read single images."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results."),
)
_TAP = click.option("--tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge.")
_BOARD = click.option("--tensorboard", is_flag=True, help="Write event files, too.")


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the recipe that the command line overrides."""
    named = ("epochs", "batch_size", "learning_rate", "weight_decay", "image_size")
    found = {name: options[name] for name in named if options[name] is not None}
    for text in options["changes"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"--set takes NAME=VALUE, for example momentum=0.95, got {text!r}")
        found[name.strip()] = value.strip()
    return found


def _pair(options: dict[str, Any]) -> Any:
    from kdzero_gp.training.api import Pair

    both = taps(options["tap"], "--tap")
    return Pair(
        options["task"], options["student"], options["teacher"], options["teacher_weights"], options["data"],
        options["recipe"], _changes(options), both | taps(options["teacher_tap"], "--teacher-tap"),
        both | taps(options["student_tap"], "--student-tap"), options["validation"],
    )  # fmt: skip


def _machine(options: dict[str, Any]) -> Any:
    from kdzero_gp.engine.machine import Machine

    return Machine(options["device"], options["threads"], options["readers"])


def _distiller(text: str) -> Any:
    """What ``--distiller`` names: a run's winner is looked up here, everything else by the training."""
    if not text.startswith("run:"):
        return text
    from kdzero_gp.cli.runs import expression_of
    from kdzero_gp.training.distillers import NamedDistiller

    folder, _, rank = text.removeprefix("run:").partition("#")
    if not Path(folder).is_dir() or (rank and not rank.isdigit()):
        raise SettingError(f"--distiller {text!r} names no run; write run:DIR or run:DIR#RANK, as kdzero-gp show ranks")
    expression, entry = expression_of(folder, int(rank or 1))
    return NamedDistiller(Path(folder).name + (f"#{rank}" if rank else ""), expression, tuple(entry.magnitudes))


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


def _conclude(result: Any, out: Path) -> None:
    if result.validation_accuracy is None:
        which = f"weights after epoch {result.best_epoch}"
    else:
        which = f"weights of epoch {result.best_epoch}, validation {100 * result.validation_accuracy:.2f} %"
    click.echo(f"test {100 * result.test_accuracy:.2f} % ({which}); {result.step_milliseconds:.1f} ms a step")
    click.echo(f"wrote {out / 'student.safetensors'}, result.json and log.csv beside it")


@click.command()
@click.option("--model", required=True, help=_NETWORK)
@_TAP
@with_options(DATA_OPTIONS, RECIPE_OPTIONS, MACHINE_OPTIONS)
@_BOARD
@click.pass_context
def train(ctx: click.Context, model: str, **options: Any) -> None:
    """Train a network alone, for example a teacher. The same command goes on after an interruption."""
    from kdzero_gp import training

    out = options["out"]
    with _resumable(ctx) as progress:
        result = training.train(
            options["task"], model, out=out, data=options["data"], recipe=options["recipe"], seed=options["seed"],
            changes=_changes(options), taps=taps(options["tap"], "--tap"), validate=options["validation"],
            machine=_machine(options), progress=progress, tensorboard=options["tensorboard"],
        )  # fmt: skip
    _conclude(result, out)
    click.echo(f"next: kdzero-gp distill --teacher {model} --teacher-weights {out / 'student.safetensors'} …")


@click.command()
@with_options(DATA_OPTIONS, PAIR_OPTIONS)
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
    _conclude(result, options["out"])


@click.command()
@with_options(DATA_OPTIONS, PAIR_OPTIONS)
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

    try:
        grid = [float(factor) for factor in factors.split(",")]
    except ValueError:
        raise SettingError(f"--factors takes numbers such as 0.3,1,3, got {factors!r}") from None
    with _resumable(ctx) as progress:
        found = training.compare(
            _pair(options), [_distiller(one) for one in distillers], out=options["out"], seeds=options["seeds"],
            factors=grid, tune_epochs=options["tune_epochs"], seed=options["seed"], workers=options["workers"],
            machine=_machine(options), progress=progress,
        )  # fmt: skip
    _show(found)


def _show(found: Any) -> None:
    from kdzero_gp.cli.tables import percent, plain_table, show

    rows = []
    for row in found.rows:
        if row.reason:
            rows.append([row.name, row.reason, "", "", "", "", ""])
            continue
        rows.append([
            row.name, "–" if row.factor is None else f"{row.factor:g}", percent(row.test, row.interval),
            percent(row.difference, row.difference_interval), percent(row.validation), f"{row.milliseconds:.1f}",
            f"{row.megabytes:.0f}",
        ])  # fmt: skip
    seeds = max(row.seeds for row in found.rows)
    headers = ["distiller", "factor", "test %", "to kd, points", "validation %", "ms/step", "MB"]
    table = plain_table(headers, rows)
    table.title, table.title_justify = f"{seeds} seeds, mean ± 95 % interval", "left"
    show(console, table)
    click.echo(f"wrote {found.folder / 'compare.json'}, compare.csv and compare.png beside it")
