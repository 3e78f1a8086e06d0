"""The commands that look at what there is: show, inspect and export."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.errors import SettingError

# How many operations that became rarer are named.
SHRUNK = 12


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--top", type=int, default=10, show_default=True, help="How many distillers of the search to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(folder: Path, top: int, as_json: bool) -> None:
    """The ranking of a run, finished or not, with the published methods in the same table."""
    from kdzero_gp.cli import tables
    from kdzero_gp.search.candidates import front, screen_rows
    from kdzero_gp.search.race import entries, standings
    from kdzero_gp.search.settings import RunSettings
    from kdzero_gp.search.storage import Database

    if top < 1:
        raise SettingError(f"--top must be at least 1, got {top}")
    with Database.read(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        evaluations, births = database.evaluations(), database.births()
        table = standings(database, entries(database, settings))
        finished = bool(database.fact("finished"))
        stages, operations = database.stages(), database.fact("operations") or {}
    reasons = Counter(e.reason.split(":")[0] for e in evaluations if e.reason)
    counts = {
        "births": len(births),
        "evaluated": sum(e.fitness is not None for e in evaluations),
        "equivalent": sum(bool(e.equivalent_to) for e in evaluations),
        "rejected": sum(e.fitness is None for e in evaluations),
        "duplicates": sum(b.duplicate_of is not None for b in births),
    }
    if as_json:
        ranked = [{n: v for n, v in vars(e).items() if n != "fingerprint"} for e in evaluations[:top]]
        found = {"finished": finished, "counts": counts, "reasons": reasons, "top": ranked}
        found["screens"] = screen_rows(evaluations, stages)
        found["operations"] = {
            n: dict(zip(("trials", "wins", "weight"), v, strict=True)) for n, v in operations.items()
        }
        found["front"] = [e.digest for e in front(evaluations, settings.search.objectives)]
        found["race"] = [tables.standing_as_data(s) for s in table]
        click.echo(json.dumps(found, indent=1, default=list))
        return
    click.echo(f"{folder}: {'finished' if finished else 'not finished'}, {tables.counts_line(counts)}")
    rows = [
        [
            str(rank),
            f"{e.fitness:.4f}",
            f"{100 * e.metrics['accuracy']:.2f}",
            f"{e.metrics['cross_entropy']:.4f}",
            e.expression,
        ]
        for rank, e in enumerate(evaluations[:top], 1)
        if e.fitness is not None
    ]
    headers = ["", "proxy fitness", "validation %", "cross-entropy", "distiller"]
    tables.show(console, tables.plain_table(headers, rows))
    if any(not s.reason for s in table):
        tables.show(console, tables.race_table([s for s in table if not s.reason]))
    tables.show(console, tables.screens_table(screen_rows(evaluations, stages)))
    for reason, count in reasons.most_common():
        click.echo(f"rejected {count}: {reason}")
    shrunk = sorted((weight, name) for name, (_, _, weight) in operations.items() if weight < 1)
    if shrunk:
        rarer = ", ".join(f"{name} {weight:.2f}" for weight, name in shrunk[:SHRUNK])
        click.echo(f"drawn less often, since their descendants lose: {rarer}")
    if settings.search.objectives:
        tables.show(
            console, tables.front_table(front(evaluations, settings.search.objectives), settings.search.objectives)
        )
    if not finished:
        click.echo(f"go on with: kdzero-gp resume {folder}")


def expression_of(what: str, rank: int) -> tuple[Any, Any]:
    """An expression from a run folder, a zoo name or a text, and its entry where it comes from a run."""
    from kdzero_gp.compiler import pair_shapes, parse, zoo
    from kdzero_gp.search.race import Competitor, entries, standings
    from kdzero_gp.search.settings import RunSettings
    from kdzero_gp.search.storage import Database

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
        bench = database.fact("bench")
        raced = [s.entry for s in standings(database, entries(database, settings)) if not s.reason]
        ranked = [entry for entry in raced if entry.kind == "evolved"]
        known = {entry.name for entry in ranked}
        ranked += [
            Competitor(e.digest, "evolved", e.expression, e.magnitudes, e.fitness)
            for e in database.evaluations()
            if e.fitness is not None and e.digest not in known
        ]
    if rank > len(ranked):
        raise SettingError(f"{what} has {len(ranked)} distillers, so there is no --rank {rank}")
    types = pair_shapes(bench["student_shapes"], bench["teacher_shapes"]).types
    return parse(ranked[rank - 1].expression, types), ranked[rank - 1]


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

    expression, _ = expression_of(what, rank)
    draw.write(expression, output)
    click.echo(f"{draw.describe(expression)}\nwrote {output}")


@click.command()
@click.argument("what", metavar="DIR|EXPRESSION|ZOO_NAME")
@click.option("--rank", type=int, default=1, show_default=True, help="Which of a run's distillers, best first.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file [default: a new distiller.py].")
@click.option(
    "--shape",
    multiple=True,
    metavar="NAME=STUDENT:TEACHER",
    help="Shapes for an expression, e.g. feat=64x8x8:256x8x8.",
)
def export(what: str, rank: int, output: Path | None, shape: tuple[str, ...]) -> None:
    """Write a distiller as a Python file that needs only torch."""
    from kdzero_gp.compiler import export as export_expression
    from kdzero_gp.search.run import export_entry
    from kdzero_gp.search.storage import Database

    expression, entry = expression_of(what, rank)
    if output is None:
        output = Path("distiller.py")
        if output.exists():
            raise SettingError("distiller.py exists already; name the file to write with -o")
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
            f"assuming the shapes of CIFAR-100's ResNets for {', '.join(missing)}; --shape sets others",
            err=True,
        )
    return student, teacher
