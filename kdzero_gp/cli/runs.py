"""The commands that look at what there is: show, inspect and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.errors import SettingError

if TYPE_CHECKING:
    from kdzero_gp.analysis.results import RankedDistiller
    from kdzero_gp.analysis.run import StoredRun
    from kdzero_gp.compiler import Expression
    from kdzero_gp.compiler.checking import KnowledgeTypes

# How many operations that became rarer are named.
SHRUNK = 12


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=int, default=10, show_default=True, help="How many distillers of the search to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(folders: tuple[Path, ...], top: int, as_json: bool) -> None:
    """The ranking of a run, finished or not, with the published methods in the same table; of several runs of one pair
    the best of all in one ranking."""
    from kdzero_gp.analysis.run import StoredRun

    if top < 1:
        raise SettingError(f"--top must be at least 1, got {top}")
    if len(folders) > 1:
        from kdzero_gp.cli.several import show_several

        show_several(folders, top, as_json)
        return
    run = StoredRun(folders[0])
    if as_json:
        click.echo(json.dumps(_as_data(run, top), indent=1, default=list))
    else:
        _print_tables(run, top)
        _print_lines(run, top)


def _as_data(run: StoredRun, top: int) -> dict[str, Any]:
    return {
        "finished": run.finished, "counts": run.counts, "reasons": run.rejections,
        "top": [one.as_dict() for one in run.top(top)],
        "screens": run.screens, "operations": run.drawn, "front": [e.digest for e in run.front],
        "language_model": run.language_model,
        "race": [result.as_dict() for result in run.race],
        "confirmation": [result.as_dict() for result in run.confirmation],
        "pruning": None if run.pruning is None else run.pruning.as_dict(),
        "sizes": [
            {"operations": operations, "leads": leads} | one.as_dict() for operations, leads, one in run.sizes
        ],
        "verdict": None if run.verdict is None else run.verdict.lines,
    }  # fmt: skip


def _print_tables(run: StoredRun, top: int) -> None:
    from kdzero_gp.cli import tables

    settings = run.settings
    state = "finished" if run.finished else "not finished"
    click.echo(f"{run.folder}: {state}, {tables.counts_line(run.counts)}")
    family, width = settings.family, tables.width_of(console)
    tables.show(console, tables.ranking_table(run.top(top), family, width))
    raced = [result for result in run.race if not result.reason]
    if raced:
        tables.show(console, tables.race_table(raced, family, width, expressions=False))
    if run.confirmation:
        tables.show(console, tables.confirmation_table(run.confirmation, raced, family))
    tables.show(console, tables.sizes_table(run.sizes, family))
    tables.show(console, tables.screens_table(run.screens))
    if settings.search.objectives:
        tables.show(console, tables.front_table(run.front, settings.search.objectives))


def _print_lines(run: StoredRun, top: int) -> None:
    from kdzero_gp.compiler import NEGATIVE, may_be_negative
    from kdzero_gp.search.model import account_line

    signed = [f"evolved {one.rank}" for one in run.top(top) if may_be_negative(one.expression, one.knowledge)]
    if signed:
        click.echo(f"the value of {', '.join(signed)} {NEGATIVE}")
    verdict, pruned = run.verdict, run.pruning
    for status, reasons in run.reasons.items():
        for reason, count in reasons.most_common():
            click.echo(f"{status.value} {count}: {reason}")
    if run.language_model:
        click.echo(account_line(run.language_model))
    rarer = sorted((row["weight"], name) for name, row in run.drawn.items() if row["weight"] < 1)
    if rarer:
        names = ", ".join(f"{name} {weight:.2f}" for weight, name in rarer[:SHRUNK])
        click.echo(f"drawn less often, since their descendants lose: {names}")
    for line in pruned.lines(run.settings.family.deciding) if pruned is not None else ():
        click.echo(line)
    for line in verdict.lines if verdict is not None else ():
        click.echo(line)
    if not run.finished:
        click.echo(f"go on with: kdzero-gp resume {run.folder}")


def distiller_of(what: str, rank: int) -> RankedDistiller | tuple[Expression, KnowledgeTypes | None]:
    """One of a run's distillers, or the expression of a zoo name or a text with the knowledge that it is made of: the
    usual one, or maps of logits where only these fit. Raises KdzeroError."""
    from kdzero_gp.analysis.run import StoredRun
    from kdzero_gp.compiler import zoo
    from kdzero_gp.compiler.zoo import parse_for_some_pair, usual_types

    if rank < 1:
        raise SettingError(f"--rank must be at least 1, got {rank}")
    if Path(what).is_dir():
        return StoredRun(what).find(rank)
    name = what.removeprefix("zoo:")
    if name in zoo:
        return zoo[name], zoo.entries[name].knowledge
    if "(" not in what:
        raise SettingError(f"{what!r} is not a run folder, zoo name or expression; the zoo has {', '.join(zoo)}")
    expression = parse_for_some_pair(what)
    return expression, usual_types(expression)


def free_name(path: Path) -> Path:
    """``path``, or with the first number that makes it a new file.

    >>> free_name(Path("surely/not/there.svg")).name
    'there.svg'
    """
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


@click.command()
@click.argument("what", metavar="DIR|EXPRESSION|ZOO_NAME")
@click.option("--rank", type=int, help="Which of a run's distillers, best first [default: the run's winner, pruned].")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help=".svg, .png, .pdf, .dot, .mmd, .tex or .txt [default: a new tree.svg]",
)
def inspect(what: str, rank: int | None, output: Path | None) -> None:
    """Draw a distiller's tree."""
    from kdzero_gp import draw
    from kdzero_gp.analysis.run import StoredRun

    numbers: tuple[float, ...] = ()
    if rank is None and Path(what).is_dir():
        expression, knowledge, numbers, _ = StoredRun(what).winner
    elif isinstance(found := distiller_of(what, 1 if rank is None else rank), tuple):
        expression, knowledge = found
    else:
        expression, knowledge, numbers = found.expression, found.knowledge, found.magnitudes
    output = output or free_name(Path("tree.svg"))
    draw.write(expression, output, knowledge, numbers=numbers)
    click.echo(f"{draw.bullets(expression, knowledge, numbers=numbers)}\nwrote {output}")


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
@click.option("--with-hooks", is_flag=True, help="The file reads both networks' tensors itself, by hooks on the layers "
              "that the run read.")  # fmt: skip
@click.option("--method", metavar="NAME", help="A published method, with the magnitudes that the run tuned.")
def export(
    what: str, rank: int | None, output: Path | None, shape: tuple[str, ...], with_hooks: bool, method: str | None
) -> None:
    """Write a distiller as a Python file that needs only torch."""
    from kdzero_gp import tasks
    from kdzero_gp.analysis.run import StoredRun
    from kdzero_gp.compiler import export as export_expression
    from kdzero_gp.compiler import zoo

    distiller = (
        StoredRun(what) if rank is None and Path(what).is_dir() else distiller_of(what, 1 if rank is None else rank)
    )
    if method is not None and not isinstance(distiller, StoredRun):
        raise SettingError("--method needs a run's folder, and no --rank")
    if output is None:
        output = Path("distiller.py")
        if output.exists():
            raise SettingError("distiller.py exists already; name the file to write with -o")
    if isinstance(distiller, tuple):
        if with_hooks:
            raise SettingError(
                "--with-hooks needs a run, which knows the layers of its networks; give the run's folder"
            )
        expression, types = distiller
        shares = () if what.removeprefix("zoo:") in zoo else _written(expression)
        task, example = _example(types)
        shapes = _shapes(shape, expression, example)
        export_expression(output, expression, *shapes, shares=shares, knowledge=tasks.get(task).family.knowledge)
    elif isinstance(distiller, StoredRun):
        distiller.export(output, with_hooks, method)
        what = method or distiller.winner_title
    else:
        distiller.export(output, with_hooks)
        what = f"the evolved distiller of rank {distiller.rank}"
    click.echo(f"wrote {what} to {output}: add Distiller()(student, teacher, labels) to your cross-entropy")
    click.echo("for another batch size than its own, call its calibrate(student, teacher, labels) first")


def _written(expression: Expression) -> tuple[float, ...]:
    """The magnitudes that stand in an expression: relative ones, which are shares."""
    from kdzero_gp.compiler import terms

    return tuple(float(term.arguments[1]) for term in terms(expression))  # type: ignore[arg-type]


# Shapes for an expression exported without a pair: a ResNet-56 teacher and a ResNet-20 student on CIFAR-100; two
# segmenters of 19 classes on 512×512 pixels; two detectors of COCO's 80 classes on these, with FCOS's points and Faster
# R-CNN's regions.
_EXAMPLES: dict[str, dict[str, tuple[int, ...]]] = {
    "cifar100": {"logits": (100,), "emb": (64,), "feat": (64, 8, 8)},
    "segmentation": {"logits": (19, 128, 128), "feat": (128, 64, 64)},
    "detection": {"logits": (80, 5456)}
    | dict.fromkeys(("deltas", "boxes", "grid"), (4, 5456))
    | {"proposals": (4, 256), "regions": (1024, 256), "region_logits": (81, 256)}
    | {f"fpn{level}": (256, 512 >> level, 512 >> level) for level in (3, 4, 5)},
}


def _example(types: KnowledgeTypes | None) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The task whose pairs usually have these types, and shapes of such a pair."""
    from kdzero_gp.compiler.zoo import USUAL

    return next(pair for pair, usual in zip(_EXAMPLES.items(), USUAL.values(), strict=True) if usual is types)


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
