"""Distillers into files: the suffix says what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdzero_gp.compiler.expression import Expression
from kdzero_gp.draw.diagrams import to_dot, to_mermaid
from kdzero_gp.draw.drawing import Drawing
from kdzero_gp.draw.factors import factors_of
from kdzero_gp.draw.formula import latex_parts
from kdzero_gp.draw.render import to_pdf, to_png, to_svg
from kdzero_gp.draw.sentence import bullets
from kdzero_gp.errors import SettingError
from kdzero_gp.files import atomic_write


def tex_file(expression: Expression, *context: Any, **named: Any) -> str:
    r"""A displayed formula, one term a line, for a document that loads amsmath and amssymb."""
    drawing = Drawing(expression, *context, **named)
    loss, definitions = latex_parts(expression, drawing.knowledge, drawing.numbers)
    lines = [loss[0].replace(" = ", " &= ", 1), *(f"&\\quad + {term}" for term in loss[1:])]
    lines += [definition.replace(" = ", " &= ", 1) for definition in definitions]
    body = " \\\\\n  ".join(lines)
    head = f"% {expression}\n% needs amsmath and amssymb\n"
    factors = factors_of(expression, drawing.numbers)
    relative = [f"{factor.relative:g}" for factor in factors if factor.relative is not None]
    if relative:
        head += "% the numbers are those of the exported file, at its batch size; relative to the cross-entropy's "
        head += f"gradient they are {', '.join(relative)}\n"
    return f"{head}\\[\n\\begin{{aligned}}\n  {body}\n\\end{{aligned}}\n\\]\n"


def text_file(expression: Expression, *context: Any, **named: Any) -> str:
    """The expression and what it does, a line for each term."""
    drawing = Drawing(expression, *context, **named)
    return f"{expression}\n\n{bullets(expression, drawing.knowledge, drawing.numbers)}\n"


_WRITERS: dict[str, Callable[..., str | bytes]] = {
    ".svg": to_svg,
    ".png": to_png,
    ".pdf": to_pdf,
    ".dot": to_dot,
    ".mmd": to_mermaid,
    ".tex": tex_file,
    ".txt": text_file,
}
SUFFIXES = tuple(_WRITERS)


def write(expression: Expression, path: Path | str, *context: Any, **named: Any) -> None:
    """Write a distiller in the form that the suffix of ``path`` names: a picture (.svg, .png, .pdf), a diagram for
    another program (.dot, .mmd), a formula (.tex) or a sentence (.txt). The other arguments are those of ``Drawing``.
    The file appears whole or not at all.

    Raises ``SettingError`` for another suffix, ``RunError`` where the file cannot be written, and what
    ``graph`` raises.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        given = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        raise SettingError(f"cannot draw into {path.name!r} with {given}; end the name in one of {', '.join(SUFFIXES)}")
    atomic_write(path, writer(expression, *context, **named), "free space or choose another place with -o")
