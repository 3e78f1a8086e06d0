"""Where the nodes of a graph stand in a picture: rows by generation, no two boxes and no line through a box.

Layers, dummies for lines that pass a row, an order by neighbours' means and places pushed apart: Sugiyama, Tagawa and
Toda 1981.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise

import networkx

from kdzero_gp.draw.svg import number

Key = Hashable
COLUMN_GAP = 16.0
ROW_GAP = 30.0
# A line that passes a row takes this much room in it.
PASSING_WIDTH = 10.0
_SWEEPS = 12


@dataclass
class Place:
    """The room of one box, or of a line that passes a row (``box`` False). ``x`` is its middle."""

    width: float
    height: float
    box: bool = True
    x: float = 0.0
    above: list[Key] = field(default_factory=list)
    below: list[Key] = field(default_factory=list)


@dataclass(frozen=True)
class Placement:
    """Rows from the oldest to the youngest: their keys from left to right, upper edges and generations; every place by
    key; and the places that each edge runs through."""

    rows: tuple[tuple[Key, ...], ...]
    tops: tuple[float, ...]
    heights: tuple[float, ...]
    generations: tuple[int, ...]
    places: Mapping[Key, Place]
    ways: Mapping[tuple[Key, Key], tuple[Key, ...]]
    width: float
    height: float

    def path(self, edge: tuple[Key, Key], left: float, top: float) -> str:
        """An edge from box to box as a path of svg, moved by ``left`` and ``top``: straight where it passes a row."""
        row_of = {key: index for index, row in enumerate(self.rows) for key in row}
        pieces: list[str] = []
        before = (0.0, 0.0)
        for index, key in enumerate(self.ways[edge]):
            place, start = self.places[key], top + self.tops[row_of[key]]
            x, end = left + place.x, start + (place.height if place.box else self.heights[row_of[key]])
            if index == 0:
                pieces.append(f"M{number(x)},{number(end)}")
            else:
                middle = number((before[1] + start) / 2)
                pieces.append(f"C{number(before[0])},{middle} {number(x)},{middle} {number(x)},{number(start)}")
                if not place.box:
                    pieces.append(f"V{number(end)}")
            before = (x, end)
        return "".join(pieces)


def row_numbers(tree: networkx.DiGraph) -> tuple[dict[Key, int], list[int]]:
    """The row of each node, and each row's generation: by generation, parents above children within one."""
    level: dict[Key, tuple[int, int]] = {}
    for node in networkx.lexicographical_topological_sort(tree, key=str):
        generation = tree.nodes[node]["generation"]
        same = [level[parent][1] + 1 for parent in tree.predecessors(node) if level[parent][0] == generation]
        level[node] = (generation, max(same, default=0))
    order = sorted(set(level.values()))
    return {node: order.index(where) for node, where in level.items()}, [generation for generation, _ in order]


def layered_layout(
    tree: networkx.DiGraph, sizes: Mapping[Key, tuple[float, float]], line: Sequence[Key] = ()
) -> Placement:
    """Place a graph whose nodes have a ``generation`` and a size (width, height). The nodes of ``line``, a path of
    edges, stand straight above each other."""
    row_of, generations = row_numbers(tree)
    rows: list[list[Key]] = [[] for _ in generations]
    places = {node: Place(*sizes[node]) for node in tree}
    for node in sorted(tree, key=lambda node: (row_of[node], str(node))):
        rows[row_of[node]].append(node)
    ways: dict[tuple[Key, Key], tuple[Key, ...]] = {}
    following, straight = dict(pairwise(line)), set(line)
    for parent, child in tree.edges:
        way: list[Key] = [parent]
        for row in range(row_of[parent] + 1, row_of[child]):
            passing = ("passing", parent, child, row)
            places[passing] = Place(PASSING_WIDTH, 0.0, box=False)
            rows[row].append(passing)
            if parent in line and child in line and following[parent] == child:
                straight.add(passing)
            way.append(passing)
        ways[parent, child] = (*way, child)
    for way_keys in ways.values():
        for upper, lower in pairwise(way_keys):
            places[upper].below.append(lower)
            places[lower].above.append(upper)
    _order(rows, places)
    _spread(rows, places, straight)
    heights = [max(places[key].height for key in row) for row in rows]
    tops = [sum(heights[:index]) + ROW_GAP * index for index in range(len(rows))]
    left = min(place.x - place.width / 2 for place in places.values())
    for place in places.values():
        place.x -= left
    width = max(place.x + place.width / 2 for place in places.values())
    return Placement(
        tuple(map(tuple, rows)), tuple(tops), tuple(heights), tuple(generations), places, ways, width,
        tops[-1] + heights[-1],
    )  # fmt: skip


def _order(rows: list[list[Key]], places: Mapping[Key, Place]) -> None:
    """Sort each row by the mean position of its neighbours, downwards and upwards in turn."""
    for sweep in range(_SWEEPS):
        position = {key: index / max(1, len(row) - 1) for row in rows for index, key in enumerate(row)}
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = {}
            for key in row:
                near = places[key].above if sweep % 2 == 0 else places[key].below
                wanted[key] = sum(position[n] for n in near) / len(near) if near else position[key]
            row.sort(key=lambda key: wanted[key])
            position |= {key: index / max(1, len(row) - 1) for index, key in enumerate(row)}


def _spread(rows: list[list[Key]], places: Mapping[Key, Place], straight: Set[Key]) -> None:
    """Move every row's members towards their neighbours, as near as their widths and order allow."""
    for row in rows:
        _push(row, places, dict.fromkeys(row, 0.0), straight)
    for sweep in range(2 * _SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = {}
            for key in row:
                near = (places[key].above if sweep % 2 == 0 else places[key].below) or [key]
                wanted[key] = sum(places[n].x for n in near) / len(near)
            _push(row, places, wanted, straight)


def _push(row: list[Key], places: Mapping[Key, Place], wanted: Mapping[Key, float], straight: Set[Key]) -> None:
    """Places near to the wanted ones without overlap: the mean of pushing to the right and pushing to the left, each
    of which keeps the distances. What is ``straight``, at most one in a row, stands at 0 and the others beside it."""
    gaps = [(places[one].width + places[other].width) / 2 + COLUMN_GAP for one, other in pairwise(row)]
    rightwards, leftwards = [wanted[key] for key in row], [wanted[key] for key in row]
    for index, gap in enumerate(gaps):
        rightwards[index + 1] = max(rightwards[index + 1], rightwards[index] + gap)
    for index in range(len(gaps) - 1, -1, -1):
        leftwards[index] = min(leftwards[index], leftwards[index + 1] - gaps[index])
    for key, high, low in zip(row, rightwards, leftwards, strict=True):
        places[key].x = (high + low) / 2
    fixed = next((index for index, key in enumerate(row) if key in straight), None)
    if fixed is None:
        return
    places[row[fixed]].x = 0.0
    for index in range(fixed, len(row) - 1):
        places[row[index + 1]].x = max(places[row[index + 1]].x, places[row[index]].x + gaps[index])
    for index in range(fixed, 0, -1):
        places[row[index - 1]].x = min(places[row[index - 1]].x, places[row[index]].x - gaps[index - 1])
