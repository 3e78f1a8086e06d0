"""The lines of a picture as drawing commands that both outputs share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdzero_gp.draw.layout import Edge, Point
from kdzero_gp.draw.style import Box

BEND = 7.0
PAIR_OFFSET = 2.2
PAIR_WIDTH = 1.3
LOSS_WIDTH = 1.8
HEAD_LENGTH = 7.0
HEAD_HALF_WIDTH = 4.4

# A letter of SVG's path language with its points: M one, L one, Q two (control, end).
Command = tuple[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Stroke:
    """What an edge is drawn with: lines of one width, and the corners of its head."""

    lines: tuple[tuple[Command, ...], ...]
    width: float
    head: tuple[Point, Point, Point]


def stroke(edge: Edge) -> Stroke:
    """A single line for a loss, a double one for a student-teacher pair, with one head."""
    before, tip = edge.points[-2], edge.points[-1]
    along = _direction(before, tip)
    base = (tip[0] - HEAD_LENGTH * along[0], tip[1] - HEAD_LENGTH * along[1])
    across = (-along[1], along[0])
    head = (
        tip,
        (base[0] + HEAD_HALF_WIDTH * across[0], base[1] + HEAD_HALF_WIDTH * across[1]),
        (base[0] - HEAD_HALF_WIDTH * across[0], base[1] - HEAD_HALF_WIDTH * across[1]),
    )
    points = [*edge.points[:-1], base]
    if not edge.pair:
        return Stroke((rounded(points),), LOSS_WIDTH, head)
    shifts = [(PAIR_OFFSET * side * across[0], PAIR_OFFSET * side * across[1]) for side in (-1, 1)]
    return Stroke(tuple(rounded([(x + dx, y + dy) for x, y in points]) for dx, dy in shifts), PAIR_WIDTH, head)


def sample(swatch: Box, pair: bool) -> Stroke:
    """The line of a legend."""
    middle = swatch.centre[1]
    return stroke(Edge(((swatch.left, middle), (swatch.right, middle)), pair))


def _direction(start: Point, end: Point) -> Point:
    length = math.dist(start, end) or 1.0
    return (end[0] - start[0]) / length, (end[1] - start[1]) / length


def rounded(points: Sequence[Point]) -> tuple[Command, ...]:
    """A way along ``points`` whose corners are rounded."""
    commands: list[Command] = [("M", (points[0],))]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        bend = min(BEND, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        back, on = _direction(corner, before), _direction(corner, after)
        commands.append(("L", ((corner[0] + bend * back[0], corner[1] + bend * back[1]),)))
        commands.append(("Q", (corner, (corner[0] + bend * on[0], corner[1] + bend * on[1]))))
    return (*commands, ("L", (points[-1],)))
