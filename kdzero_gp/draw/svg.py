"""A scene as svg text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

from kdzero_gp.draw.layout import BASELINE, Edge, Node, Point, Scene, Text
from kdzero_gp.draw.legend import LegendEntry
from kdzero_gp.draw.style import DETAIL_SIZE, FONT_FAMILY, INK, LINE, PAPER, ROLES, Rectangle, corners, radius

BEND = 7.0
PAIR_OFFSET = 2.2
PAIR_WIDTH = 1.3
LOSS_WIDTH = 1.8
HEAD_LENGTH = 7.0
HEAD_HALF_WIDTH = 4.4


def number(value: float) -> str:
    """A coordinate in its shortest form, to a tenth of a point.

    >>> number(12.04), number(3.25)
    ('12', '3.2')
    """
    return f"{value:.1f}".removesuffix(".0")


def render(scene: Scene, title: str, description: str) -> str:
    """The image. It has no ids, so that any number of images can stand on one page."""
    width, height = number(scene.width), number(scene.height)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{FONT_FAMILY}" text-anchor="middle">'
    )
    lines = [
        head,
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(description)}</desc>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        *(line for edge in scene.edges for line in _edge(edge)),
        *(line for node in scene.nodes for line in _node(node)),
        _text(scene.out, "bold"),
        *(line for entry in scene.entries for line in _entry(entry)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)


def _edge(edge: Edge) -> Iterator[str]:
    """A single line for a loss, a double one for a student-teacher pair, with one head."""
    before, tip = edge.points[-2], edge.points[-1]
    along = _direction(before, tip)
    across = (-along[1], along[0])
    base = _moved(tip, along, -HEAD_LENGTH)
    points = [*edge.points[:-1], base]
    for offset in (-PAIR_OFFSET, PAIR_OFFSET) if edge.pair else (0.0,):
        path = _rounded([_moved(point, across, offset) for point in points])
        width = number(PAIR_WIDTH if edge.pair else LOSS_WIDTH)
        yield f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="{width}"/>'
    head = (tip, _moved(base, across, HEAD_HALF_WIDTH), _moved(base, across, -HEAD_HALF_WIDTH))
    yield f'<polygon points="{_points(head)}" fill="{LINE}"/>'


def _direction(start: Point, end: Point) -> Point:
    length = math.dist(start, end) or 1.0
    return (end[0] - start[0]) / length, (end[1] - start[1]) / length


def _moved(point: Point, direction: Point, length: float) -> Point:
    return point[0] + length * direction[0], point[1] + length * direction[1]


def _rounded(points: Sequence[Point]) -> str:
    """The path along ``points`` with rounded corners."""
    pieces = ["M" + _points(points[:1])]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        bend = min(BEND, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        start = _moved(corner, _direction(corner, before), bend)
        end = _moved(corner, _direction(corner, after), bend)
        pieces += ["L" + _points([start]), "Q" + _points([corner, end])]
    return " ".join([*pieces, "L" + _points(points[-1:])])


def _shape(shape: str, box: Rectangle, fill: str, width: float = 1.2) -> str:
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
        swatch, middle = entry.swatch, entry.swatch.centre[1]
        yield from _edge(Edge(((swatch.left, middle), (swatch.right, middle)), entry.role == "pair"))
    box = entry.text_box
    baseline = box.centre[1] + BASELINE * DETAIL_SIZE
    place = f'x="{number(box.left)}" y="{number(baseline)}" font-size="{number(DETAIL_SIZE)}"'
    yield f'<text {place} fill="{INK}" text-anchor="start">{escape(entry.text)}</text>'
