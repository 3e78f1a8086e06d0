"""The drawn distillers: the winner at the head of the page, the runners-up in their own panel."""

from __future__ import annotations

from typing import Any

from latex2mathml.converter import convert
from markupsafe import Markup

from kdzero_gp.analysis.markup import shrinking, svg_width
from kdzero_gp.compiler import parse
from kdzero_gp.draw import clauses, to_svg
from kdzero_gp.draw.formula import latex_parts
from kdzero_gp.errors import KdzeroError
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.race import Competitor


def trees_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The best evolved distillers after the winner, each drawn once."""
    return {"others": [distiller(snapshot, entry, rank) for rank, entry in enumerate(snapshot.top[1:], 2)]}


def distiller(snapshot: Snapshot, entry: Competitor, rank: int) -> dict[str, Any]:
    """A distiller as a picture, a list, a formula and a text to copy; the text alone where it cannot be read."""
    result, deciding = snapshot.standing(entry), snapshot.settings.family.deciding
    facts = {
        "rank": rank, "expression": entry.expression, "fitness": entry.fitness, "problem": "",
        "raced": deciding.with_unit(*result.value(deciding.name)) if result else "",
    }  # fmt: skip
    try:
        expression = parse(entry.expression, snapshot.knowledge)
        numbers = entry.magnitudes
        picture = to_svg(expression, snapshot.knowledge, numbers=numbers, legend=rank == 1)
        parts = clauses(expression, snapshot.knowledge, numbers)
        formula = _formula(*latex_parts(expression, snapshot.knowledge, numbers))
    except KdzeroError as error:
        return {**facts, "problem": str(error)}
    width = svg_width(picture)
    # down to what can be read; narrower pages scroll it
    least = round(min(width, 0.62 * width + 60))
    return {**facts, "picture": shrinking(picture, least=least), "clauses": parts, "formula": formula}


def to_mathml(latex: str, kind: str = "") -> Markup:
    """A formula of ``draw.formula`` as a ``<math>`` element, of the class ``kind`` for the style sheet."""
    # LaTeX's mathrm are single letters, which would be read out one by one
    element = convert(latex.replace(r"\mathrm{", r"\text{"))
    if latex.startswith("+"):  # a plus at the beginning of a line is no sign: it keeps its space
        element = element.replace("<mo>", '<mo form="infix">', 1)
    return Markup(element.replace(' display="inline"', f' class="{kind}"' if kind else "", 1))


def _formula(loss: list[str], definitions: list[str]) -> Markup:
    """Each term of the loss and each function that they share on a line of its own."""
    first, *others = loss
    more = [to_mathml(line, "more") for line in [*(f"+ {term}" for term in others), *definitions]]
    return Markup("").join([to_mathml(first), *more])
