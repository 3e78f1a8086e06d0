"""A scene as svg text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape

from kdzero_gp.draw.edges import Command, Stroke, sample, stroke
from kdzero_gp.draw.layout import BASELINE, Node, Point, Scene, Text
from kdzero_gp.draw.legend import LegendEntry
from kdzero_gp.draw.style import DETAIL_SIZE, FONT_FAMILY, INK, LINE, PAPER, ROLES, Box, corners, radius


def number(value: float) -> str:
    """A coordinate in its shortest form, to a tenth of a point.

    >>> number(12.04), number(3.25)
    ('12', '3.2')
    """
    return f"{value:.1f}".removesuffix(".0")


def render(scene: Scene, title: str, description: str, identifier: str) -> str:
    """The image. ``identifier`` keeps the ids of several images on one page apart."""
    width, height = number(scene.width), number(scene.height)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-labelledby="{identifier}-title {identifier}-description" '
        f'font-family="{FONT_FAMILY}" text-anchor="middle">'
    )
    lines = [
        head,
        f'<title id="{identifier}-title">{escape(title)}</title>',
        f'<desc id="{identifier}-description">{escape(description)}</desc>',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        *(line for edge in scene.edges for line in _stroke(stroke(edge))),
        *(line for node in scene.nodes for line in _node(node)),
        _text(scene.out, "bold"),
        *(line for entry in scene.entries for line in _entry(entry)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)


def _path(commands: Iterable[Command]) -> str:
    return " ".join(letter + _points(points) for letter, points in commands)


def _stroke(drawn: Stroke) -> Iterator[str]:
    for line in drawn.lines:
        yield f'<path d="{_path(line)}" fill="none" stroke="{LINE}" stroke-width="{number(drawn.width)}"/>'
    yield f'<polygon points="{_points(drawn.head)}" fill="{LINE}"/>'


def _shape(shape: str, box: Box, fill: str, width: float = 1.2) -> str:
    paint = f'fill="{fill}" stroke="{INK}" stroke-width="{number(width)}"'
    if shape in ("hexagon", "parallelogram"):
        return f'<polygon points="{_points(corners(shape, box))}" {paint}/>'
    place = f'x="{number(box.left)}" y="{number(box.top)}"'
    size = f'width="{number(box.width)}" height="{number(box.height)}"'
    return f'<rect {place} {size} rx="{number(radius(shape, box))}" {paint}/>'


def _text(text: Text, weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    place = f'x="{number(text.x)}" y="{number(text.y)}" font-size="{number(text.size)}"'
    return f'<text {place} fill="{text.ink}"{bold}>{escape(text.text)}</text>'


def _node(node: Node) -> Iterator[str]:
    style = ROLES[node.role]
    yield f'<g class="{node.role}"><title>{escape(node.tooltip)}</title>'
    yield _shape(style.shape, node.box, style.fill)
    for tag in node.tags:
        yield _shape("pill", tag, PAPER, 0.7)
    for text in node.texts:
        yield _text(text)
    yield "</g>"


def _entry(entry: LegendEntry) -> Iterator[str]:
    if entry.role in ROLES:
        style = ROLES[entry.role]
        yield _shape(style.shape, entry.swatch, style.fill)
    else:
        yield from _stroke(sample(entry.swatch, entry.role == "pair"))
    box = entry.text_box
    baseline = box.centre[1] + BASELINE * DETAIL_SIZE
    place = f'x="{number(box.left)}" y="{number(baseline)}" font-size="{number(DETAIL_SIZE)}"'
    yield f'<text {place} fill="{INK}" text-anchor="start">{escape(entry.text)}</text>'
