"""Pictures of distillers: svg and png from one layout, without a system program.

Knowledge, transforms, distances and calibrations differ in colour, lightness and shape; constants are small
tags at their operation; a double line is a student-teacher pair, a single line a loss.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
POINTS_PER_INCH = 72
# What printers want of a drawing.
PDF_DOTS_PER_INCH = 600


def layout(
    expression: Expression,
    knowledge: KnowledgeTypes | None = None,
    shapes: PairShapes | None = None,
    numbers: Sequence[float] = (),
    *,
    direction: str = "auto",
    legend: bool = True,
) -> Scene:
    """The geometry of a picture, without pixels; the arguments are those of ``to_svg``."""
    check_direction(direction)
    if knowledge is None and shapes is not None:
        knowledge = shapes.types
    tree = graph(expression, knowledge, shapes)
    return scene(items(expression, tree, knowledge, numbers), direction, legend)


def to_svg(
    expression: Expression,
    knowledge: KnowledgeTypes | None = None,
    shapes: PairShapes | None = None,
    numbers: Sequence[float] = (),
    *,
    direction: str = "auto",
    legend: bool = True,
) -> str:
    """A distiller as an svg image whose text can be selected; title and description speak to a screen reader.

    ``shapes`` writes the pair's shapes into the nodes, ``numbers`` those of the exported file, one for each term.
    ``direction`` is that of the flow: ``right``, ``up``, or ``auto`` for what fits a page better.
    Raises ``SettingError`` for another direction, and what ``graph`` raises.
    """
    from kdzero_gp.draw.svg import render

    geometry = layout(expression, knowledge, shapes, numbers, direction=direction, legend=legend)
    if knowledge is None and shapes is not None:
        knowledge = shapes.types
    return render(geometry, str(expression), describe(expression, knowledge, numbers))


def to_png(expression: Expression, *context: Any, dpi: int = DOTS_PER_INCH, **look: Any) -> bytes:
    """The svg picture as a png image with ``dpi`` dots per inch; the other arguments are those of ``to_svg``.

    Raises ``SettingError`` for a ``dpi`` outside 36 to 1200, and what ``to_svg`` raises.
    """
    import matplotlib
    import resvg_py
    from PIL import Image

    if not 36 <= dpi <= 1200:
        raise SettingError(f"dpi {dpi} makes no readable picture; choose 36 to 1200")
    # the fonts that the layout was measured with, whatever the system has
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [str(fonts / "DejaVuSans.ttf"), str(fonts / "DejaVuSans-Bold.ttf")]
    picture = to_svg(expression, *context, **look)
    pixels = resvg_py.svg_to_bytes(picture, zoom=dpi / POINTS_PER_INCH, skip_system_fonts=True, font_files=files)
    buffer = io.BytesIO()  # resvg writes no resolution
    Image.open(io.BytesIO(bytes(pixels))).convert("RGB").save(buffer, format="png", dpi=(dpi, dpi))
    return buffer.getvalue()


def to_pdf(expression: Expression, *context: Any, **look: Any) -> bytes:
    """The picture as a page of a pdf file of its own size, for a paper; the arguments are those of ``to_png``."""
    from PIL import Image

    picture = Image.open(io.BytesIO(to_png(expression, *context, dpi=PDF_DOTS_PER_INCH, **look)))
    buffer = io.BytesIO()
    picture.save(buffer, format="pdf", resolution=PDF_DOTS_PER_INCH, quality=95)
    return buffer.getvalue()
