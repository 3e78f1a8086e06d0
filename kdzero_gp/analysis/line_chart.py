"""A line chart as svg text: a few labelled lines over a common axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from kdzero_gp.draw.labels import measured
from kdzero_gp.draw.style import DETAIL_SIZE, FONT_FAMILY, INK, LABEL_SIZE, PAPER
from kdzero_gp.draw.svg import number

WIDTH, HEIGHT = 640.0, 300.0
LEFT, TOP, BOTTOM = 56.0, 52.0, 40.0
# Blue, vermillion, green, orange, purple of Okabe and Ito (2008), which colour-blind readers tell apart; the dashes
# keep lines apart in print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2")


@dataclass(frozen=True)
class Line:
    """A label and the values at 1, 2, 3, …"""

    label: str
    values: Sequence[float]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that cover low..high, at most about ``most``.

    >>> ticks(0.0, 0.93)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = max(high - low, 1e-12)
    raw = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.9999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def line_chart(lines: Sequence[Line], title: str, across: str, upwards: str) -> str:
    """The lines with their labels at their ends; values are drawn from zero."""
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    rows = ticks(min(0.0, *finite, 0.0), max(finite, default=1.0) or 1.0)
    count = max(len(line.values) for line in lines)
    labels = [measured(line.label, DETAIL_SIZE) for line in lines]
    right = WIDTH - 14.0 - max(label.width for label in labels)

    def x(position: float) -> float:
        return LEFT + (right - LEFT) * (position - 1) / max(1, count - 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - rows[0]) / (rows[-1] - rows[0])

    body = [
        _text(LEFT - 44, 18, title, LABEL_SIZE, "start", "bold"),
        _text(LEFT - 44, TOP - 18, upwards, DETAIL_SIZE, "start"),
    ]
    for value in rows:
        body.append(f'<path d="M{number(LEFT)},{number(y(value))}H{number(right)}" stroke="#dddddd"/>')
        body.append(_text(LEFT - 6, y(value) + 3.5, f"{value:g}", DETAIL_SIZE, "end"))
    for position in dict.fromkeys([1, *(int(t) for t in ticks(1, count) if 1 <= t <= count and t == int(t))]):
        body.append(_text(x(position), HEIGHT - BOTTOM + 15, str(position), DETAIL_SIZE))
    body.append(_text((LEFT + right) / 2, HEIGHT - 8, across, DETAIL_SIZE))
    for index, (line, height) in enumerate(zip(lines, _apart([y(line.values[-1]) for line in lines]), strict=True)):
        points = " ".join(f"{number(x(i))},{number(y(v))}" for i, v in enumerate(line.values, 1) if math.isfinite(v))
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}/>')
        body.append(_text(right + 6, height + 3.5, line.label, DETAIL_SIZE, "start", "bold"))
    return _svg(title, body)


def _apart(heights: Sequence[float]) -> list[float]:
    """The places of labels, moved until none overlaps another."""
    least = DETAIL_SIZE * 1.4
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list(heights)
    for before, index in pairwise(order):
        placed[index] = max(placed[index], placed[before] + least)
    over = max(placed) - (HEIGHT - BOTTOM)
    if over > 0:
        placed[order[-1]] -= over
        for index, after in zip(order[-2::-1], order[:0:-1], strict=True):
            placed[index] = min(placed[index], placed[after] - least)
    return placed


def _text(x: float, y: float, content: str, size: float, anchor: str = "middle", weight: str = "normal") -> str:
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-size="{number(size)}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{INK}">{escape(content)}</text>'
    )


def _svg(title: str, body: Sequence[str]) -> str:
    size = f'width="{number(WIDTH)}" height="{number(HEIGHT)}" viewBox="0 0 {number(WIDTH)} {number(HEIGHT)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT_FAMILY}">'
    paper = f'<rect width="{number(WIDTH)}" height="{number(HEIGHT)}" fill="{PAPER}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", paper, *body, "</svg>"])
