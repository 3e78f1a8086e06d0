"""The commands that look at what there is: show, inspect and export."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.errors import ExpressionError, SettingError

if TYPE_CHECKING:
    from kdzero_gp.analysis.results import RankedDistiller
    from kdzero_gp.analysis.run import Run
    from kdzero_gp.compiler import Expression
    from kdzero_gp.compiler.checking import KnowledgeTypes

# How many operations that became rarer are named.
SHRUNK = 12


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--top", type=int, default=10, show_default=True, help="How many distillers of the search to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(folder: Path, top: int, as_json: bool) -> None:
    """The ranking of a run, finished or not, with the published methods in the same table."""
    from kdzero_gp.analysis.run import Run

    if top < 1:
        raise SettingError(f"--top must be at least 1, got {top}")
    run = Run(folder)
    if as_json:
        click.echo(json.dumps(_as_data(run, top), indent=1, default=list))
    else:
        _print_tables(run, top)
        _print_lines(run)


def _as_data(run: Run, top: int) -> dict[str, Any]:
    ranked = [
        {
            "rank": one.rank, "digest": one.digest, "expression": str(one.expression), "fitness": one.fitness,
            "metrics": one.metrics, "magnitudes": one.magnitudes, "birth": one.birth,
            "race": None if one.standing is None else one.standing.as_dict(),
        }
        for one in run.top(top)
    ]  # fmt: skip
    return {
        "finished": run.finished, "counts": run.counts, "reasons": run.rejections, "top": ranked,
        "screens": run.screens, "operations": run.drawn, "front": [e.digest for e in run.front],
        "race": [result.as_dict() for result in run.race],
        "confirmation": [result.as_dict() for result in run.confirmation],
        "verdict": None if run.verdict is None else run.verdict.lines,
    }  # fmt: skip


def _print_tables(run: Run, top: int) -> None:
    from kdzero_gp.cli import tables

    settings = run.settings
    state = "finished" if run.finished else "not finished"
    click.echo(f"{run.folder}: {state}, {tables.counts_line(run.counts)}")
    tables.show(console, tables.ranking_table(run.top(top), settings.family))
    raced = [result for result in run.race if not result.reason]
    if raced:
        tables.show(console, tables.race_table(raced, settings.family))
    if run.confirmation:
        tables.show(console, tables.confirmation_table(run.confirmation, settings.family))
    tables.show(console, tables.screens_table(run.screens))
    if settings.search.objectives:
        tables.show(console, tables.front_table(run.front, settings.search.objectives))


def _print_lines(run: Run) -> None:
    verdict = run.verdict
    for line in verdict.lines if verdict is not None else ():
        click.echo(line)
    for reason, count in run.rejections.most_common():
        click.echo(f"rejected {count}: {reason}")
    rarer = sorted((row["weight"], name) for name, row in run.drawn.items() if row["weight"] < 1)
    if rarer:
        names = ", ".join(f"{name} {weight:.2f}" for weight, name in rarer[:SHRUNK])
        click.echo(f"drawn less often, since their descendants lose: {names}")
    if not run.finished:
        click.echo(f"go on with: kdzero-gp resume {run.folder}")


def distiller_of(what: str, rank: int) -> RankedDistiller | tuple[Expression, KnowledgeTypes | None]:
    """One of a run's distillers, or the expression of a zoo name or a text with the knowledge that it is made of: the
    usual one, or that of label maps or of detectors where only these fit. Raises KdzeroError."""
    from kdzero_gp.analysis.run import Run
    from kdzero_gp.compiler import parse, zoo
    from kdzero_gp.compiler.zoo import DENSE_KNOWLEDGE

    if rank < 1:
        raise SettingError(f"--rank must be at least 1, got {rank}")
    if Path(what).is_dir():
        return Run(what).find(rank)
    name = what.removeprefix("zoo:")
    if name in zoo:
        return zoo[name], zoo.entries[name].knowledge
    if "(" not in what:
        raise SettingError(f"{what!r} is not a run folder, zoo name or expression; the zoo has {', '.join(zoo)}")
    try:
        return parse(what), None
    except ExpressionError:
        for knowledge in DENSE_KNOWLEDGE.values():
            with contextlib.suppress(ExpressionError):
                return parse(what, knowledge), knowledge
        raise


@click.command()
@click.argument("what", metavar="DIR|EXPRESSION|ZOO_NAME")
@click.option("--rank", type=int, default=1, show_default=True, help="Which of a run's distillers, best first.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help=".svg, .png, .dot, .mmd, .tex or .txt",
)
def inspect(what: str, rank: int, output: Path) -> None:
    """Draw a distiller's tree."""
    from kdzero_gp import draw

    found = distiller_of(what, rank)
    expression, knowledge = found if isinstance(found, tuple) else (found.expression, found.knowledge)
    draw.write(expression, output, knowledge)
    click.echo(f"{draw.describe(expression, knowledge)}\nwrote {output}")


@click.command()
@click.argument("what", metavar="DIR|EXPRESSION|ZOO_NAME")
@click.option("--rank", type=int, help="Which of a run's distillers, best first [default: the run's winner, which may "
              "be a published method].")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file [default: a new distiller.py].")
@click.option(
    "--shape",
    multiple=True,
    metavar="NAME=STUDENT:TEACHER",
    help="Shapes for an expression, e.g. feat=64x8x8:256x8x8.",
)
def export(what: str, rank: int | None, output: Path | None, shape: tuple[str, ...]) -> None:
    """Write a distiller as a Python file that needs only torch."""
    from kdzero_gp.analysis.run import Run
    from kdzero_gp.compiler import export as export_expression
    from kdzero_gp.families.segmentation import SEGMENTATION

    distiller = Run(what) if rank is None and Path(what).is_dir() else distiller_of(what, rank or 1)
    if output is None:
        output = Path("distiller.py")
        if output.exists():
            raise SettingError("distiller.py exists already; name the file to write with -o")
    if isinstance(distiller, tuple):
        expression, dense = distiller
        shapes = _shapes(shape, expression, _EXAMPLE_MAPS if dense else _EXAMPLE_SHAPES)
        export_expression(output, expression, *shapes, knowledge=SEGMENTATION.knowledge if dense else None)
    else:
        distiller.export(output)
    click.echo(f"wrote {output}: add Distiller()(student, teacher, labels) to your cross-entropy")


# Shapes for an expression exported without a pair: a ResNet-56 teacher and a ResNet-20 student on CIFAR-100, and two
# segmenters of 19 classes on 512×512 pixels.
_EXAMPLE_SHAPES: dict[str, tuple[int, ...]] = {"logits": (100,), "emb": (64,), "feat": (64, 8, 8)}
_EXAMPLE_MAPS: dict[str, tuple[int, ...]] = {"logits": (19, 128, 128), "feat": (128, 64, 64)}


def _shapes(
    texts: tuple[str, ...], expression: Expression, example: dict[str, tuple[int, ...]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    student, teacher = dict(example), dict(example)
    named = set()
    for text in texts:
        name, _equals, sizes = text.partition("=")
        left, _, right = sizes.partition(":")
        try:
            student[name] = tuple(int(size) for size in left.split("x"))
            teacher[name] = tuple(int(size) for size in (right or left).split("x"))
        except ValueError:
            raise SettingError(
                f"--shape takes NAME=STUDENT:TEACHER, for example feat=64x8x8:256x8x8, got {text!r}"
            ) from None
        named.add(name)
    used = {node.name for node in expression.walk() if not node.arguments}
    missing = sorted(used - named)
    if missing:
        click.echo(
            f"assuming {', '.join(f'{name}={_sizes(example.get(name, ()))}' for name in missing)}; --shape sets others",
            err=True,
        )
    return student, teacher


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
