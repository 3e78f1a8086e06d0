"""Small pieces of html and svg for notebooks: no style sheet, no script, readable on light and dark pages."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from html import escape

from kdzero_gp.compiler import Expression
from kdzero_gp.draw import to_svg
from kdzero_gp.errors import KdzeroError

_CELL = "padding:3px 10px;vertical-align:middle;"
_numbers = itertools.count(1)


def text(value: object) -> str:
    """Any value as html text."""
    return escape(str(value))


def code(value: object) -> str:
    """Code that may break anywhere, since expressions have no spaces."""
    return f'<code style="overflow-wrap:anywhere">{text(value)}</code>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table of html cells; the columns ``left`` are text, the others numbers."""

    def cells(tag: str, values: Sequence[str]) -> str:
        sides = ["left" if index in left else "right;white-space:nowrap" for index in range(len(values))]
        pairs = zip(values, sides, strict=True)
        return "".join(f'<{tag} style="{_CELL}text-align:{side}">{value}</{tag}>' for value, side in pairs)

    head = f"<thead><tr>{cells('th', [text(header) for header in headers])}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<table style="border-collapse:collapse">{head}<tbody>{body}</tbody></table>'


def picture(expression: Expression, width: int | None = None) -> str:
    """The drawing of a distiller inside a page, as wide as the page allows, or at most ``width`` pixels; its text
    where it cannot be drawn."""
    try:
        drawn = to_svg(expression, direction="auto" if width is None else "right", legend=width is None)
    except KdzeroError:
        return code(expression)
    number = next(_numbers)  # every picture on a page has ids of its own
    return shrinking(re.sub(r"(kdzero-[0-9a-f]{16})", rf"\1-{number}", drawn), width)


def shrinking(drawn: str, width: int | None = None) -> str:
    """An svg that becomes narrower with its page, or is at most ``width`` pixels wide."""
    own = float(re.search(r'<svg[^>]* width="([\d.]+)"', drawn)[1])  # type: ignore[index]
    most = own if width is None else min(own, width)
    head = re.sub(r' width="[\d.]+" height="[\d.]+"', "", drawn[: drawn.index(">")], count=1)
    return f'{head} style="width:100%;max-width:{most:.0f}px;height:auto;display:block"{drawn[drawn.index(">") :]}'


def scrolling(content: str) -> str:
    """Wide content in a box that scrolls by itself."""
    return f'<div style="overflow-x:auto;max-width:100%">{content}</div>'
