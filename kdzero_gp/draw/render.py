"""Pictures of distillers: svg and png from one layout, without a system program.

Knowledge, transforms, distances and calibrations differ in colour, lightness and shape; constants are small
tags at their operation; a double line is a student-teacher pair, a single line a loss.
"""

from __future__ import annotations

from kdzero_gp.compiler.canonical import digest
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.shapes import PairShapes
from kdzero_gp.draw.graphs import graph
from kdzero_gp.draw.labels import items
from kdzero_gp.draw.layout import Scene, scene
from kdzero_gp.draw.sentence import describe
from kdzero_gp.draw.style import check_direction
from kdzero_gp.errors import SettingError

# 144 dots per inch is twice a screen's classic 72 points: sharp on screens and in a column of print.
DOTS_PER_INCH = 144


def layout(
    expression: Expression,
    knowledge: KnowledgeTypes | None = None,
    shapes: PairShapes | None = None,
    *,
    direction: str = "auto",
    legend: bool = True,
) -> Scene:
    """The geometry of a picture, without pixels; the arguments are those of ``to_svg``."""
    check_direction(direction)
    if knowledge is None and shapes is not None:
        knowledge = shapes.types
    tree = graph(expression, knowledge, shapes)
    return scene(items(expression, tree, knowledge), direction, legend)


def to_svg(
    expression: Expression,
    knowledge: KnowledgeTypes | None = None,
    shapes: PairShapes | None = None,
    *,
    direction: str = "auto",
    legend: bool = True,
) -> str:
    """A distiller as an svg image whose text can be selected; title and description speak to a screen reader.

    ``shapes`` writes the pair's shapes into the nodes.
    ``direction`` is that of the flow: ``right``, ``up``, or ``auto`` for what fits a page better.
    Raises ``SettingError`` for another direction, and what ``graph`` raises.
    """
    from kdzero_gp.draw.svg import render

    geometry = layout(expression, knowledge, shapes, direction=direction, legend=legend)
    if knowledge is None and shapes is not None:
        knowledge = shapes.types
    return render(geometry, str(expression), describe(expression, knowledge), f"kdzero-{digest(expression)}")


def to_png(
    expression: Expression,
    knowledge: KnowledgeTypes | None = None,
    shapes: PairShapes | None = None,
    *,
    direction: str = "auto",
    legend: bool = True,
    dpi: int = DOTS_PER_INCH,
) -> bytes:
    """The same picture as a png image with ``dpi`` dots per inch; the arguments are those of ``to_svg``."""
    from kdzero_gp.draw.png import render

    if not 36 <= dpi <= 1200:
        raise SettingError(f"dpi {dpi} makes no readable picture; choose 36 to 1200")
    geometry = layout(expression, knowledge, shapes, direction=direction, legend=legend)
    return render(geometry, str(expression), dpi)
