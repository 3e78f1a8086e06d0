"""A scene as a png image, by matplotlib's Agg, without pyplot's global figures."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from kdzero_gp.draw.edges import Command, Stroke, sample, stroke
from kdzero_gp.draw.layout import BASELINE, Scene, Text
from kdzero_gp.draw.legend import LegendEntry
from kdzero_gp.draw.style import DETAIL_SIZE, FONT, INK, LINE, PAPER, ROLES, Box, corners, radius

POINTS_PER_INCH = 72
_CODES = {"M": [Path.MOVETO], "L": [Path.LINETO], "Q": [Path.CURVE3, Path.CURVE3]}
_NODES, _TEXTS = 2, 3
# Where the control points of a cubic curve lie that is nearest to a quarter of a circle.
_ARC = 0.5523
# zlib writes drawings at level 3 twice as fast as at 6, and a tenth larger.
_COMPRESSION = {"compress_level": 3}
# A user's own settings must not change the geometry.
_SETTINGS: Any = {
    "savefig.bbox": "standard",
    "savefig.transparent": False,
    "text.usetex": False,
    "path.sketch": None,
}


def render(scene: Scene, title: str, dpi: int) -> bytes:
    """The image; ``title`` goes into its metadata."""
    buffer = io.BytesIO()
    facts = {"Title": ascii(title)[1:-1]}
    with rc_context(_SETTINGS):
        figure(scene).savefig(buffer, format="png", dpi=dpi, facecolor=PAPER, metadata=facts, pil_kwargs=_COMPRESSION)
    return buffer.getvalue()


def figure(scene: Scene) -> Figure:
    """The picture as a matplotlib figure, one data unit a point."""
    drawn = Figure(figsize=(scene.width / POINTS_PER_INCH, scene.height / POINTS_PER_INCH))
    FigureCanvasAgg(drawn)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    axes.axis("off")
    ways = [stroke(edge) for edge in scene.edges]
    ways += [sample(entry.swatch, entry.role == "pair") for entry in scene.entries if entry.role not in ROLES]
    _strokes(axes, ways)
    for node in scene.nodes:
        style = ROLES[node.role]
        axes.add_patch(_shape(style.shape, node.box, style.fill))
        for tag in node.tags:
            axes.add_patch(_shape("pill", tag, PAPER, 0.7))
        for text in node.texts:
            _text(axes, text)
    _text(axes, scene.out, "bold")
    for entry in scene.entries:
        _entry(axes, entry)
    return drawn


def _strokes(axes: Any, strokes: list[Stroke]) -> None:
    """All lines, those of one width as one patch: a hundred patches would take a tenth of a second."""
    for width in sorted({one.width for one in strokes}):
        lines = [_path(line) for one in strokes if one.width == width for line in one.lines]
        axes.add_patch(PathPatch(Path.make_compound_path(*lines), fill=False, edgecolor=LINE, linewidth=width))
    heads = [Path([*one.head, one.head[0]], closed=True) for one in strokes]
    axes.add_patch(PathPatch(Path.make_compound_path(*heads), facecolor=LINE, edgecolor="none"))


def _path(commands: tuple[Command, ...]) -> Path:
    vertices = [point for _, points in commands for point in points]
    return Path(vertices, [code for letter, _ in commands for code in _CODES[letter]])


def _shape(shape: str, box: Box, fill: str, width: float = 1.2) -> PathPatch:
    points = corners(shape, box)
    outline = _rounded(points, radius(shape, box)) if radius(shape, box) else Path([*points, points[0]], closed=True)
    return PathPatch(outline, facecolor=fill, edgecolor=INK, linewidth=width, zorder=_NODES)


def _rounded(points: list[tuple[float, float]], size: float) -> Path:
    """A rectangle with circular corners."""
    vertices, codes = [], []
    for index, (x, y) in enumerate(points):
        for neighbour in (points[index - 1], points[(index + 1) % len(points)]):
            along = (neighbour[0] - x, neighbour[1] - y)
            length = abs(along[0]) + abs(along[1])
            step = (along[0] / length * size, along[1] / length * size)
            ends = [(x + step[0], y + step[1]), (x + (1 - _ARC) * step[0], y + (1 - _ARC) * step[1])]
            vertices += ends if neighbour is points[index - 1] else ends[::-1]
        codes += [Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    codes[0] = Path.MOVETO
    return Path([*vertices, vertices[0]], [*codes, Path.CLOSEPOLY])


@lru_cache(maxsize=16)
def _font(size: float, weight: str) -> FontProperties:
    return FontProperties(family=FONT, size=size, weight=weight)


def _text(axes: Any, text: Text, weight: str = "normal") -> None:
    look = {"color": text.ink, "ha": "center", "va": "baseline", "zorder": _TEXTS, "parse_math": False}
    axes.text(text.x, text.y, text.text, font=_font(text.size, weight), **look)


def _entry(axes: Any, entry: LegendEntry) -> None:
    if entry.role in ROLES:
        style = ROLES[entry.role]
        axes.add_patch(_shape(style.shape, entry.swatch, style.fill))
    box = entry.text_box
    middle = box.centre[1] + BASELINE * DETAIL_SIZE
    _text(axes, Text(entry.text, DETAIL_SIZE, box.centre[0], middle, INK, box))
