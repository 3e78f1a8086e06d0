"""The command line. Each command reads its options, calls one function below, and says what to run next."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import kdzero_gp
from kdzero_gp.errors import KdzeroError, SettingError

console = Console()
# With this variable set, an unexpected error shows where it happened.
TRACEBACK_VARIABLE = "KDZERO_TRACEBACK"
INTERRUPTED = 130


class _Commands(click.Group):
    """Turns every error into one sentence and exit code 2, and Ctrl-C into a hint how to go on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            folder = ctx.obj and ctx.obj.get("folder")
            hint = f"; nothing that was computed is lost, go on with: kdzero-gp resume {folder}" if folder else ""
            click.echo(f"interrupted{hint}", err=True)
            ctx.exit(INTERRUPTED)
        except KdzeroError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except Exception as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            click.echo(
                f"Error: {type(error).__name__}: {first} (unexpected; set {TRACEBACK_VARIABLE}=1 to see where)", err=True
            )
            ctx.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(kdzero_gp.__version__, prog_name="kdzero-gp")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Evolve the distillation loss that suits your teacher, your student and your data."""
    ctx.ensure_object(dict)


def _machine_options(command: Any) -> Any:
    for option in (
        click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds after which an evaluation is stopped."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option("--workers", type=int, default=None, help="Worker processes [default: one for each core]. Results do not depend on it."),
    ):  # fmt: skip
        command = option(command)
    return command


def _taps(given: tuple[str, ...], option: str) -> dict[str, str]:
    taps = {}
    for text in given:
        name, equals, layer = text.partition("=")
        if not equals or not name or not layer:
            raise SettingError(f"{option} takes NAME=LAYER, for example feat=layer3, got {text!r}")
        taps[name] = layer
    return taps


@main.command()
@click.option("--generations", type=int, default=100, show_default=True, help="A generation is --pop births.")
@click.option("--pop", type=int, default=20, show_default=True, help="Size of the population.")
@click.option("--task", default="digits", show_default=True, help="digits, cifar10, cifar100 or folder.")
@click.option("--data", default=None, help="Archive, image folder or zip of the task's images.")
@click.option("--teacher", default=None, help="Built-in name, timm:NAME, torchvision:NAME or module:callable [default: the task's].")
@click.option("--teacher-weights", default=None, help="Safetensors file or state dict of the teacher.")
@click.option("--teacher-tap", multiple=True, metavar="NAME=LAYER", help="Read a knowledge from this layer of the teacher.")
@click.option("--student", default=None, help="As --teacher [default: the task's].")
@click.option("--student-tap", multiple=True, metavar="NAME=LAYER", help="Read a knowledge from this layer of the student.")
@click.option("--space", default="open", show_default=True, help="open: free trees; kdzero: the paper's template.")
@click.option("--magnitude", default="relative", show_default=True, help="relative: γ in units of the cross-entropy's gradient; absolute: as written.")
@click.option("--seed-zoo/--no-seed-zoo", default=True, show_default=True, help="Put published distillers into the first population.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--tournament", type=int, default=5, show_default=True, help="Size of the selection tournament.")
@click.option("--sample-ratio", type=float, default=None, help="Select as in the paper's Algorithm 1: from this share of the population …")
@click.option("--top-k", type=int, default=5, show_default=True, help="… one of the best k.")
@click.option("--removal", default="oldest", show_default=True, help="Who leaves the population: oldest or worst.")
@click.option("--patience", type=int, default=None, help="Stop after this many generations without a better distiller.")
@click.option("--images", type=int, default=None, help="Training images of a proxy [default: the task's].")
@click.option("--validation-images", type=int, default=None, help="Validation images [default: the task's].")
@click.option("--race-top", type=int, default=None, help="Evolved distillers in the race [default: the task's].")
@click.option("--race-seeds", type=int, default=None, help="Fresh seeds of the race [default: the task's].")
@click.option("--ce-weight", type=float, default=None, help="Share of the validation cross-entropy in the fitness.")
@click.option("--sharpness-weight", type=float, default=None, help="Share of the sharpness gap in the fitness.")
@click.option("--cka-weight", type=float, default=None, help="Share of the CKA gap in the fitness.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="The run's folder [default: runs/TASK-N].")
@_machine_options
@click.pass_context
def evolve(ctx: click.Context, **options: Any) -> None:
    """Search for the best distiller of a teacher-student pair."""
    from kdzero_gp.cli.progress import progress_for
    from kdzero_gp.runner import Machine, start

    settings = _settings(options)
    folder = options["out"] or _next_folder(settings.task)
    ctx.obj["folder"] = folder
    machine = Machine(options["workers"], options["device"], options["timeout"])
    console.print(f"run folder: {folder}", highlight=False, markup=False, soft_wrap=True)
    _conclude(start(folder, settings, machine, progress_for(console)))


def _settings(options: dict[str, Any]) -> Any:
    from kdzero_gp.errors import DataError
    from kdzero_gp.evaluation import FitnessWeights
    from kdzero_gp.evolution import SearchSettings
    from kdzero_gp.runner import PLANS, RunSettings

    if options["task"] not in PLANS:
        raise DataError(f"there is no task {options['task']!r}; choose one of {', '.join(PLANS)} with --task")
    changes = {name: options[name] for name in ("images", "validation_images", "race_top", "race_seeds") if options[name] is not None}
    plan = replace(PLANS[options["task"]], **changes)
    shares = {"cross_entropy": "ce_weight", "sharpness_gap": "sharpness_weight", "cka_gap": "cka_weight"}
    search = SearchSettings(
        generations=options["generations"], population=options["pop"], seed=options["seed"],
        tournament=options["tournament"], sample_ratio=options["sample_ratio"], top_k=options["top_k"],
        removal=options["removal"], patience=options["patience"],
    )  # fmt: skip
    return RunSettings(
        task=options["task"], data=options["data"], teacher=options["teacher"] or plan.teacher,
        teacher_weights=options["teacher_weights"], teacher_taps=_taps(options["teacher_tap"], "--teacher-tap"),
        student=options["student"] or plan.student, student_taps=_taps(options["student_tap"], "--student-tap"),
        space=options["space"], magnitude=options["magnitude"], seed_zoo=options["seed_zoo"], search=search,
        weights=FitnessWeights(**{name: options[o] for name, o in shares.items() if options[o] is not None}), plan=plan,
    )  # fmt: skip


def _next_folder(task: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{task}-{number}").exists():
        number += 1
    return folder


def _conclude(result: Any) -> None:
    from kdzero_gp.cli.tables import race_table, show

    show(console, race_table(result.table))
    for line in _conclusion(result):
        click.echo(line)


def _conclusion(result: Any) -> list[str]:
    if result.winner is None:
        return ["no evolved distiller finished the race; look at the reasons with: " f"kdzero-gp show {result.folder}"]
    winner, best = result.winner, result.table[0]
    lines = [f"best evolved distiller: {winner.entry.expression}"]
    if best.entry.kind != "evolved":
        lines.append(f"{best.entry.name} did better in this race; more --generations may change that")
    return [
        *lines,
        f"exported to {result.exported}: it needs only torch; add Distiller()(student, teacher, labels) to your cross-entropy",
        f"next: kdzero-gp show {result.folder}    kdzero-gp inspect {result.folder} -o tree.svg",
    ]


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_machine_options
@click.pass_context
def resume(ctx: click.Context, folder: Path, workers: int | None, device: str, timeout: float) -> None:
    """Go on with an interrupted run."""
    from kdzero_gp.cli.progress import progress_for
    from kdzero_gp.runner import Machine
    from kdzero_gp.runner import resume as resume_run

    ctx.obj["folder"] = folder
    _conclude(resume_run(folder, Machine(workers, device, timeout), progress_for(console)))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--top", type=int, default=10, show_default=True, help="How many distillers of the search to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(folder: Path, top: int, as_json: bool) -> None:
    """The ranking of a run, finished or not, with the published methods in the same table."""
    from kdzero_gp.cli import tables
    from kdzero_gp.runner import RunSettings, entries, standings
    from kdzero_gp.storage import Database

    if top < 1:
        raise SettingError(f"--top must be at least 1, got {top}")
    with Database.read(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        evaluations, births = database.evaluations(), database.births()
        table = standings(database, entries(database, settings))
        finished = bool(database.fact("finished"))
    reasons = Counter(e.reason.split(":")[0] for e in evaluations if e.reason)
    counts = {
        "births": len(births),
        "evaluated": sum(e.fitness is not None for e in evaluations),
        "rejected": sum(e.fitness is None for e in evaluations),
        "duplicates": sum(b.duplicate_of is not None for b in births),
    }
    if as_json:
        ranked = [vars(e) for e in evaluations[:top]]
        click.echo(json.dumps({"finished": finished, "counts": counts, "reasons": reasons, "top": ranked,
                               "race": [tables.standing_as_data(s) for s in table]}, indent=1, default=list))  # fmt: skip
        return
    click.echo(f"{folder}: {'finished' if finished else 'not finished'}, {tables.counts_line(counts)}")
    rows = [
        [str(rank), f"{e.fitness:.4f}", f"{100 * e.metrics['accuracy']:.2f}", f"{e.metrics['cross_entropy']:.4f}", e.expression]
        for rank, e in enumerate(evaluations[:top], 1)
        if e.fitness is not None
    ]
    headers = ["", "proxy fitness", "validation %", "cross-entropy", "distiller"]
    tables.show(console, tables.plain_table(headers, rows))
    if any(not s.reason for s in table):
        tables.show(console, tables.race_table([s for s in table if not s.reason]))
    for reason, count in reasons.most_common():
        click.echo(f"rejected {count}: {reason}")
    if not finished:
        click.echo(f"go on with: kdzero-gp resume {folder}")


def _expression_of(what: str, rank: int) -> tuple[Any, Any]:
    """An expression from a run folder, a zoo name or a text, and its entry where it comes from a run."""
    from kdzero_gp.compiler import parse, zoo
    from kdzero_gp.runner import Entry, RunSettings, entries, standings
    from kdzero_gp.storage import Database

    if rank < 1:
        raise SettingError(f"--rank must be at least 1, got {rank}")
    name = what.removeprefix("zoo:")
    if name in zoo:
        return zoo[name], None
    if not Path(what).is_dir():
        if "(" not in what:
            raise SettingError(f"{what!r} is no run folder, zoo name or expression; the zoo has {', '.join(zoo)}")
        return parse(what), None
    with Database.read(Path(what)) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        raced = [s.entry for s in standings(database, entries(database, settings)) if not s.reason]
        ranked = [entry for entry in raced if entry.kind == "evolved"]
        known = {entry.name for entry in ranked}
        ranked += [
            Entry(e.digest, "evolved", e.expression, e.magnitudes, e.fitness)
            for e in database.evaluations()
            if e.fitness is not None and e.digest not in known
        ]
    if rank > len(ranked):
        raise SettingError(f"{what} has {len(ranked)} distillers, so there is no --rank {rank}")
    return parse(ranked[rank - 1].expression), ranked[rank - 1]


@main.command()
@click.argument("what", metavar="DIR|EXPRESSION|ZOO_NAME")
@click.option("--rank", type=int, default=1, show_default=True, help="Which of a run's distillers, best first.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help=".svg, .png, .dot, .mmd, .tex or .txt")
def inspect(what: str, rank: int, output: Path) -> None:
    """Draw a distiller's tree."""
    from kdzero_gp import draw

    expression, _ = _expression_of(what, rank)
    draw.write(expression, output)
    click.echo(f"{draw.describe(expression)}\nwrote {output}")


@main.command()
@click.argument("what", metavar="DIR|EXPRESSION|ZOO_NAME")
@click.option("--rank", type=int, default=1, show_default=True, help="Which of a run's distillers, best first.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("distiller.py"), show_default=True)
@click.option("--shape", multiple=True, metavar="NAME=STUDENT:TEACHER", help="Shapes for an expression, e.g. feat=64x8x8:256x8x8.")
def export(what: str, rank: int, output: Path, shape: tuple[str, ...]) -> None:
    """Write a distiller as a Python file that needs only torch."""
    from kdzero_gp.compiler import export as export_expression
    from kdzero_gp.runner import export_entry
    from kdzero_gp.storage import Database

    expression, entry = _expression_of(what, rank)
    if entry is not None:
        with Database.read(Path(what)) as database:
            export_entry(Path(what), database, entry, output)
    else:
        export_expression(output, expression, *_shapes(shape, expression))
    click.echo(f"wrote {output}: add Distiller()(student, teacher, labels) to your cross-entropy")


# Shapes for an expression exported without a pair: a ResNet-56 teacher and a ResNet-20 student on CIFAR-100.
_EXAMPLE_SHAPES = {"logits": (100,), "emb": (64,), "feat": (64, 8, 8)}


def _shapes(given: tuple[str, ...], expression: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    student, teacher = dict(_EXAMPLE_SHAPES), dict(_EXAMPLE_SHAPES)
    named = set()
    for text in given:
        name, equals, sizes = text.partition("=")
        left, _, right = sizes.partition(":")
        try:
            student[name] = tuple(int(size) for size in left.split("x"))
            teacher[name] = tuple(int(size) for size in (right or left).split("x"))
        except ValueError:
            raise SettingError(f"--shape takes NAME=STUDENT:TEACHER, for example feat=64x8x8:256x8x8, got {text!r}") from None
        named.add(name)
    used = {node.name for node in expression.walk() if not node.arguments}
    missing = sorted(used - named)
    if missing:
        click.echo(f"assuming the shapes of CIFAR-100's ResNets for {', '.join(missing)}; --shape sets others", err=True)
    return student, teacher


@main.command()
@click.argument("names", nargs=-1)
def primitives(names: tuple[str, ...]) -> None:
    """The catalogue of operations."""
    from kdzero_gp.cli.tables import plain_table
    from kdzero_gp.cli.tables import show as show_table

    unknown = [name for name in names if name not in kdzero_gp.catalogue]
    if unknown:
        raise SettingError(f"there is no operation {unknown[0]!r}; kdzero-gp primitives lists them all")
    rows = [
        [operation.role, operation.name, operation.formula, operation.source]
        for operation in kdzero_gp.catalogue
        if not names or operation.name in names
    ]
    show_table(console, plain_table(["kind", "name", "formula", "source"], rows))


@main.command()
def zoo() -> None:
    """Published distillers as expressions."""
    from kdzero_gp.cli.tables import plain_table
    from kdzero_gp.cli.tables import show as show_table
    from kdzero_gp.compiler import zoo as known

    rows = [[entry.name, entry.description, entry.text, entry.reference] for entry in known.entries.values()]
    show_table(console, plain_table(["name", "transfers", "expression", "reference"], rows))


if __name__ == "__main__":
    main()
