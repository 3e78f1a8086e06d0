"""Small pieces of html that the panels share. Whatever comes from a run passes through ``text``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

UNKNOWN = "–"
# A picture that would be too small on a phone is drawn in two widths, in pixels.
WIDE, NARROW = 860.0, 340.0


def text(value: object) -> str:
    """A value as html text, safe in attributes too.

    >>> text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return escape(str(value), quote=True)


def percent(value: float, half_width: float = math.nan, digits: int = 2) -> str:
    """A share as percent, with the half-width of its interval where there is one.

    >>> percent(0.9512, 0.0102), percent(math.nan)
    ('95.12 ± 1.02', '–')
    """
    if math.isnan(value):
        return UNKNOWN
    return f"{100 * value:.{digits}f}" + ("" if math.isnan(half_width) else f" ± {100 * half_width:.{digits}f}")


def points(value: float, half_width: float = math.nan) -> str:
    """A difference in percentage points with its sign.

    >>> points(0.0123), points(-0.01, 0.002)
    ('+1.23', '−1.00 ± 0.20')
    """
    if math.isnan(value):
        return UNKNOWN
    sign = "+" if value >= 0 else "−"
    return f"{sign}{percent(abs(value), half_width)}"


def real(value: float | None, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.25), duration(75), duration(4000), duration(200000)
    ('0.25 s', '1 min 15 s', '1 h 06 min', '2 d 07 h')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def section(name: str, title: str, caption: str, body: str) -> str:
    """A panel: its title, one sentence that says how to read it, and its content. ``caption`` and ``body`` are html."""
    return (
        f'<section class="panel" id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{text(title)}</h2><p class="caption">{caption}</p>{body}</section>'
    )


def nothing(message: str) -> str:
    """What stands in a panel that has nothing to show yet."""
    return f'<p class="nothing">{text(message)}</p>'


def scrolling(content: str, label: str, kind: str = "") -> str:
    """Wide content in a box that scrolls by itself, also by keyboard."""
    return f'<div class="scroll {kind}" role="region" tabindex="0" aria-label="{text(label)}">{content}</div>'


def details(summary: str, body: str) -> str:
    """Content that opens on demand."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


@dataclass(frozen=True)
class Cell:
    """A table's cell: html, and the value that the column is sorted by (None: the html itself, as text)."""

    content: str
    value: float | None = None


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], label: str, numeric: Sequence[int] = ()) -> str:
    """A table that can be sorted by the buttons in its head and scrolls where it is too wide. ``numeric``: the
    columns of numbers."""
    classes = ["number" if index in numeric else "words" for index in range(len(headers))]
    head = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{text(header)}</button></th>'
        for header, kind in zip(headers, classes, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row, classes))}</tr>" for row in rows)
    whole = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return scrolling(whole, label)


def _cell(cell: Cell, kind: str) -> str:
    # what has no number comes last in either direction
    missing = cell.value is not None and math.isnan(cell.value)
    value = "" if cell.value is None else f' data-value="{"" if missing else f"{cell.value:.9g}"}"'
    return f'<td class="{kind}"{value}>{cell.content}</td>'


def svg(width: float, height: float, title: str, body: str, kind: str = "") -> str:
    """A picture that shrinks with the page. Its colours come from the style sheet, by class."""
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" '
        f'width="100%" role="img" aria-label="{text(title)}">{body}</svg>'
    )


def label(x: float, y: float, content: object, kind: str = "", anchor: str = "start") -> str:
    """A line of text in a picture."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{text(content)}</text>'


def both_widths(draw: Callable[[float], str]) -> str:
    """A picture drawn twice, for a page and for a phone; the style sheet shows one of them."""
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'
