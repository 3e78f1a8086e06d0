"""Pictures of distillers: svg and png from one layout, without a system program.

Knowledge, transforms, distances and calibrations differ in colour, lightness and shape; constants are small
tags at their operation; a double line is a student-teacher pair, a single line a loss.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from kdzero_gp.compiler.expression import Expression
from kdzero_gp.draw.drawing import Drawing
from kdzero_gp.draw.layout import scene
from kdzero_gp.errors import SettingError

# 144 dots per inch is twice a screen's classic 72 points: sharp on screens and in a column of print.
DOTS_PER_INCH = 144
POINTS_PER_INCH = 72
# What printers want of a drawing.
PDF_DOTS_PER_INCH = 600


def to_svg(expression: Expression, *context: Any, direction: str = "auto", legend: bool = True, **named: Any) -> str:
    """A distiller as an svg image whose text can be selected; title and description speak to a screen reader.

    The other arguments are those of ``Drawing``. ``direction`` is that of the flow: ``right``, ``up``, or ``auto`` for
    what fits a page better. Raises ``SettingError`` for another direction, and what ``graph`` raises.
    """
    from kdzero_gp.draw.svg import render

    drawing = Drawing(expression, *context, **named)
    return render(scene(drawing.root, direction, legend), str(expression), drawing.sentence)


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
