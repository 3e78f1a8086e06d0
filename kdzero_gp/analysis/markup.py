"""Small pieces of html and svg, for notebooks and for the report. Whatever is no ``Markup`` yet is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from kdzero_gp.compiler import Expression
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.draw import to_svg
from kdzero_gp.errors import KdzeroError

_CELL = "padding:3px 10px;vertical-align:middle;"


class Cell(NamedTuple):
    """A cell of a table that can be sorted, by ``value`` (None: by its content, as text)."""

    content: object
    value: float | None = None


def tag(name: str, *content: object, kind: str = "", **attributes: object) -> Markup:
    """An element with its class ``kind``; an underscore in the name of an attribute stands for a hyphen.

    >>> tag("text", "a < b", kind="tick", text_anchor="end")
    Markup('<text class="tick" text-anchor="end">a &lt; b</text>')
    """
    named = ({"class": kind} if kind else {}) | {key.replace("_", "-"): value for key, value in attributes.items()}
    head = name + "".join(f' {key}="{escape(value)}"' for key, value in named.items())
    return Markup(f"<{head}>{Markup('').join(map(escape, content))}</{name}>" if content else f"<{head}/>")


def label(x: float, y: float, content: object, kind: str = "", anchor: str = "start") -> Markup:
    """A line of text in a picture."""
    return tag("text", content, x=f"{x:.1f}", y=f"{y:.1f}", kind=kind, text_anchor=anchor)


def chart(width: float, height: float, title: str, body: Iterable[Markup]) -> Markup:
    """A picture that shrinks with the page. Its colours come from the style sheet, by class."""
    box = {"viewBox": f"0 0 {width:g} {height:g}", "style": f"max-width:{width:g}px", "width": "100%"}
    return tag("svg", *body, kind="chart", **box, role="img", aria_label=title)


def code(value: object) -> Markup:
    """Code that may break anywhere, since expressions have no spaces."""
    return tag("code", value, style="overflow-wrap:anywhere")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], left: Sequence[int] = (0,)) -> Markup:
    """A table for a notebook; the columns ``left`` are text, the others numbers."""

    def cells(name: str, values: Sequence[object]) -> Markup:
        sides = ["left" if index in left else "right;white-space:nowrap" for index in range(len(values))]
        pairs = zip(values, sides, strict=True)
        return tag("tr", *(tag(name, value, style=f"{_CELL}text-align:{side}") for value, side in pairs))

    body = tag("tbody", *(cells("td", row) for row in rows), "")
    return tag("table", tag("thead", cells("th", headers)), body, style="border-collapse:collapse")


def picture(expression: Expression, width: int | None = None, knowledge: KnowledgeTypes | None = None) -> Markup:
    """The drawing of a distiller inside a page, as wide as the page allows, or at most ``width`` pixels; its text
    where it cannot be drawn."""
    try:
        drawn = to_svg(expression, knowledge, direction="auto" if width is None else "right", legend=width is None)
    except KdzeroError:
        return code(expression)
    return shrinking(drawn, width)


def shrinking(drawn: str, width: int | None = None, least: int = 0) -> Markup:
    """An svg of ours that becomes narrower with its page, down to ``least`` pixels, or is at most ``width`` pixels."""
    own = svg_width(drawn)
    most = own if width is None else min(own, width)
    limits = f"max-width:{most:.0f}px;" + (f"min-width:{least}px;" if least else "")
    head = re.sub(r' width="[\d.]+(pt)?" height="[\d.]+(pt)?"', "", drawn[: drawn.index(">")], count=1)
    return Markup(f'{head} style="width:100%;{limits}height:auto;display:block"{drawn[drawn.index(">") :]}')


def svg_width(drawn: str) -> float:
    """The width that an svg has by itself."""
    return float(re.search(r'<svg[^>]* width="([\d.]+)', drawn)[1])  # type: ignore[index]


def plain(*content: object) -> str:
    """What a notebook shows, in a box that scrolls: as plain ``str``, which can be joined with other html."""
    return str(scrolling(*content))


def scrolling(*content: object) -> Markup:
    """Wide content in a box that scrolls by itself."""
    return tag("div", *content, style="overflow-x:auto;max-width:100%")
