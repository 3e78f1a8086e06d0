"""Where everything stands in a picture: a layered tree with knowledge at one end and the loss at the other.

A chain of knowledge and transforms is one straight row of the first layer; all distances lie in the second,
all calibrations in the third, so that terms can be compared at a glance. Subtrees are moved together until
their outlines touch, layer by layer (Reingold and Tilford 1981).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdzero_gp.draw.labels import PAIR_ROLES, TAG_GAP, TAG_PADDING, VERTICAL_PADDING, LabelledNode, TextLine, measured
from kdzero_gp.draw.legend import LegendEntry, legend
from kdzero_gp.draw.style import DETAIL_SIZE, INK, LABEL_SIZE, ROLES, Rectangle, indent
from kdzero_gp.errors import SettingError

LAYER_GAP = 26.0
SIBLING_GAP = 14.0
MARGIN = 12.0
OUT_LENGTH = 26.0
LEGEND_GAP = 16.0
LEGEND_WIDTH = 380.0  # the four shapes in one row
# What a screen or a page shows well; the direction of flow that has to be shrunk less is taken.
FRAME = (1000.0, 1000.0)
# The baseline lies this part of the size below the middle of a line of text.
BASELINE = 0.36

Point = tuple[float, float]
Contour = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Text:
    """A line of text, centred at ``x``, on the baseline ``y``; ``box`` is what it covers."""

    text: str
    size: float
    x: float
    y: float
    ink: str
    box: Rectangle


@dataclass(frozen=True)
class Node:
    """A placed node; ``tags`` are the small boxes of its constants."""

    index: int
    name: str
    role: str
    box: Rectangle
    texts: tuple[Text, ...]
    tags: tuple[Rectangle, ...]
    tooltip: str


@dataclass(frozen=True)
class Edge:
    """A way along ``points`` in the direction of the flow; ``pair`` where student and teacher flow side by
    side.
    """

    points: tuple[Point, ...]
    pair: bool


@dataclass(frozen=True)
class Scene:
    """A picture as geometry, in points, y downwards; ``out`` is the word at the end of the flow."""

    width: float
    height: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    out: Text
    entries: tuple[LegendEntry, ...]


def walk(item: LabelledNode) -> Iterator[LabelledNode]:
    """An item and all below it."""
    yield item
    for child in item.children:
        yield from walk(child)


def assign_layers(root: LabelledNode) -> None:
    """0 for knowledge and transforms; what computes losses lies one behind what it needs."""
    for item in list(walk(root))[::-1]:
        if item.role not in PAIR_ROLES:
            item.layer = 1 + max(child.layer for child in item.children)


def place_across(item: LabelledNode, upright: bool) -> Contour:
    """Give ``item`` and all below it their place across the flow; return how far they reach in each layer."""
    contour: Contour = {}
    for child in item.children:
        reach = place_across(child, upright)
        shift = max(
            (contour[layer][1] - reach[layer][0] + SIBLING_GAP for layer in reach if layer in contour),
            default=0.0,
        )
        for below in walk(child):
            below.across += shift
        for layer, (low, high) in reach.items():
            _widen(contour, layer, low + shift, high + shift)
    if item.children:
        item.across = (item.children[0].across + item.children[-1].across) / 2
    half = (item.width if upright else item.height) / 2
    _widen(contour, item.layer, item.across - half, item.across + half)
    return contour


def _widen(contour: Contour, layer: int, low: float, high: float) -> None:
    known = contour.get(layer, (low, high))
    contour[layer] = (min(low, known[0]), max(high, known[1]))


class _Placing:
    """From layers and places across to coordinates, for one direction of flow."""

    def __init__(self, root: LabelledNode, direction: str):
        self.root, self.upright, self.left = root, direction == "up", MARGIN
        for item in walk(root):
            item.across = 0.0
        contour = place_across(root, self.upright)
        self.low = min(low for low, _ in contour.values())
        self.across = max(high for _, high in contour.values()) - self.low
        self.starts, self.sizes, self.along = self.layer_places()

    def layer_places(self) -> tuple[dict[int, float], dict[int, float], float]:
        """Where each layer starts along the flow, how thick it is, and the length of all."""
        sizes: dict[int, float] = {}
        for item in list(walk(self.root))[::-1]:
            size = item.height if self.upright else item.width
            if item.role in PAIR_ROLES:
                item.start = item.children[0].start + item.children[0].length + LAYER_GAP if item.children else 0.0
                item.length = size
                size += item.start
            sizes[item.layer] = max(size, sizes.get(item.layer, 0.0))
        starts, along = {}, 0.0
        for layer in sorted(sizes):
            starts[layer] = along
            along += sizes[layer] + LAYER_GAP
        return starts, sizes, along - LAYER_GAP

    def middle(self, item: LabelledNode) -> float:
        """Where an item lies along the flow."""
        if item.role in PAIR_ROLES:
            return item.start + item.length / 2
        return self.starts[item.layer] + self.sizes[item.layer] / 2

    @property
    def out_line(self) -> TextLine:
        """The word at the end of the flow."""
        return measured("loss" if self.root.role not in PAIR_ROLES else "pair", LABEL_SIZE)

    @property
    def size(self) -> Point:
        """Width and height without margins and legend."""
        end = self.out_line.height if self.upright else self.out_line.width
        along = self.along + OUT_LENGTH + end
        return (self.across, along) if self.upright else (along, self.across)

    def point(self, along: float, across: float) -> Point:
        if self.upright:
            return self.left + across - self.low, MARGIN + self.size[1] - along
        return self.left + along, MARGIN + across - self.low

    def box(self, item: LabelledNode) -> Rectangle:
        x, y = self.point(self.middle(item), item.across)
        return Rectangle(x - item.width / 2, y - item.height / 2, item.width, item.height)

    def ends(self, item: LabelledNode) -> tuple[float, float]:
        """Where the outline of an item begins and ends along the flow."""
        size = item.height if self.upright else item.width
        inset = 0.0 if self.upright else indent(ROLES[item.role].shape, self.box(item))
        middle = self.middle(item)
        return middle - size / 2 + inset, middle + size / 2 - inset

    def edges(self) -> Iterator[Edge]:
        for parent in walk(self.root):
            begin, end = self.ends(parent)
            for child in parent.children:
                start = self.ends(child)[1]
                pair = child.role in PAIR_ROLES
                if len(parent.children) == 1:
                    way = [(start, child.across), (begin, parent.across)]
                else:
                    middle = (begin + end) / 2
                    half = (parent.width if self.upright else parent.height) / 2
                    target = parent.across + (half if child.across > parent.across else -half)
                    way = [(start, child.across), (middle, child.across), (middle, target)]
                yield Edge(tuple(self.point(*place) for place in way), pair)
        out = self.ends(self.root)[1]
        points = (self.point(out, self.root.across), self.point(out + OUT_LENGTH - 4, self.root.across))
        yield Edge(points, self.root.role in PAIR_ROLES)

    def out_text(self) -> Text:
        line = self.out_line
        half = (line.height if self.upright else line.width) / 2
        x, y = self.point(self.along + OUT_LENGTH + half, self.root.across)
        return centred(line.text, line.size, line.width, x, y, INK)


def centred(text: str, size: float, width: float, x: float, middle: float, ink: str) -> Text:
    """A text around a point."""
    box = Rectangle(x - width / 2, middle - size * 0.55, width, size * 1.1)
    return Text(text, size, x, middle + BASELINE * size, ink, box)


def _node(item: LabelledNode, box: Rectangle) -> Node:
    """The texts of an item inside its box."""
    texts, tags, top = [], [], box.top + VERTICAL_PADDING
    ink = ROLES[item.role].ink
    for line in item.lines:
        middle = top + line.height / 2
        left = box.centre[0] - line.full_width / 2
        texts.append(centred(line.text, line.size, line.width, left + line.width / 2, middle, ink))
        if line.tag:
            height = DETAIL_SIZE + 5.0
            tag = Rectangle(left + line.width + TAG_GAP, middle - height / 2, line.tag_width, height)
            tags.append(tag)
            texts.append(centred(line.tag, DETAIL_SIZE, line.tag_width - 2 * TAG_PADDING, *tag.centre, INK))
        top += line.height
    return Node(item.index, item.node.name, item.role, box, tuple(texts), tuple(tags), item.tooltip)


def scene(root: LabelledNode, direction: str = "auto", with_legend: bool = True) -> Scene:
    """The geometry of a picture. ``direction``: ``right``, ``up``, or ``auto``, what fits a page better. Raises
    ``SettingError`` for another one."""
    if direction not in ("auto", "right", "up"):
        raise SettingError(f"direction {direction!r} is unknown; choose auto, right or up")
    assign_layers(root)
    placing = _Placing(root, "right" if direction == "auto" else direction)
    if direction == "auto":
        other = _Placing(root, "up")
        placing = _Placing(root, "up" if _shrinking(other.size) < _shrinking(placing.size) else "right")
    width, height = placing.size
    edges = tuple(placing.edges())
    entries: tuple[LegendEntry, ...] = ()
    if with_legend:
        roles, pairs = {item.role for item in walk(root)}, {edge.pair for edge in edges}
        top = MARGIN + height + LEGEND_GAP
        entries, legend_width, legend_height = legend(roles, pairs, max(width, LEGEND_WIDTH), MARGIN, top)
        height += LEGEND_GAP + legend_height
        # a picture narrower than its legend stands in the middle above it
        placing.left += max(0.0, (legend_width - width) / 2)
        width, edges = max(width, legend_width), tuple(placing.edges())
    nodes = tuple(_node(item, placing.box(item)) for item in walk(root))
    return Scene(width + 2 * MARGIN, height + 2 * MARGIN, nodes, edges, placing.out_text(), entries)


def _shrinking(size: Point) -> float:
    return max(size[0] / FRAME[0], size[1] / FRAME[1], 1.0)
