"""The drawn distillers: the winner at the head of the page, the runners-up in their own panel."""

from __future__ import annotations

import re

from kdzero_gp.compiler import parse
from kdzero_gp.draw import describe, to_svg
from kdzero_gp.draw.formula import latex_parts
from kdzero_gp.errors import KdzeroError
from kdzero_gp.report.panels.mathml import to_mathml
from kdzero_gp.report.panels.pieces import nothing, real, scrolling, section, text
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.race import Competitor

_SIZE = re.compile(r' width="([\d.]+)" height="([\d.]+)"')


def trees_panel(snapshot: Snapshot) -> str:
    """The best evolved distillers after the winner, each drawn once."""
    caption = "Those that raced stand first, by their result; the others follow by fitness. The winner is drawn above."
    if len(snapshot.top) < 2:
        return section("trees", "The runners-up", caption, nothing("There are no other distillers yet."))
    figures = [
        f"<article><h3>{rank}. {_numbers(snapshot, entry)}</h3>{distiller(snapshot, entry, rank)}</article>"
        for rank, entry in enumerate(snapshot.top[1:], 2)
    ]
    return section("trees", "The runners-up", caption, "".join(figures))


def _numbers(snapshot: Snapshot, entry: Competitor) -> str:
    standing, deciding = snapshot.standing(entry), snapshot.settings.family.deciding
    raced = (
        f"{deciding.text(*standing.value(deciding.name))} {deciding.unit} in the race"
        if standing is not None
        else "not raced"
    )
    return f"{raced}, fitness {real(entry.fitness)}"


def distiller(snapshot: Snapshot, entry: Competitor, rank: int) -> str:
    """A distiller as a picture, a sentence, a formula and a text to copy; the text alone where it cannot be read."""
    code = (
        f'<div class="copy"><code>{text(entry.expression)}</code>'
        '<button type="button" class="copier" hidden>Copy</button></div>'
    )
    try:
        expression = parse(entry.expression, snapshot.knowledge)
        picture = to_svg(expression, snapshot.knowledge, legend=rank == 1)
        sentence = describe(expression, snapshot.knowledge)
        formula = _formula(*latex_parts(expression, snapshot.knowledge))
    except KdzeroError as error:
        problem = f'<p class="nothing">This version of kdzero-gp cannot read it: {text(error)}.</p>'
        return f'<div class="distiller" id="distiller-{rank}">{problem}{code}</div>'
    return (
        f'<div class="distiller" id="distiller-{rank}"><p class="sentence">{text(sentence)}</p>'
        f"{scrolling(_fitting(picture), f'Tree of distiller {rank}', 'paper')}"
        f"{scrolling(formula, f'Formula of distiller {rank}', 'formula')}{code}</div>"
    )


def _formula(loss: list[str], definitions: list[str]) -> str:
    """Each term of the loss and each function that they share on a line of its own."""
    first, *others = loss
    more = [f"+ {term}" for term in others] + definitions
    lines = [to_mathml(line, "more") for line in more]
    # a plus at the beginning of a line is no sign: it keeps its space
    return to_mathml(first) + "".join(line.replace("<mo>+</mo>", '<mo form="infix">+</mo>', 1) for line in lines)


def _fitting(picture: str) -> str:
    """The picture at its own size or smaller, down to what can be read; narrower pages scroll it."""
    found = _SIZE.search(picture)
    assert found is not None
    width = float(found[1])
    style = f'style="width:100%;max-width:{width:.0f}px;min-width:{min(width, 0.62 * width + 60):.0f}px;height:auto"'
    return picture.replace(found[0], f" {style}", 1)
