"""The genealogy of a birth: the graph of its ancestors, and a picture of it in which long stretches are folded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import networkx
from markupsafe import Markup

from kdzero_gp.analysis import markup
from kdzero_gp.analysis.comparison import change, short
from kdzero_gp.analysis.lineage import Placement, plan
from kdzero_gp.compiler import parse
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.draw.labels import TextLine, measured
from kdzero_gp.draw.style import DETAIL_SIZE, FONT_FAMILY, INK, LINE, PAPER
from kdzero_gp.draw.svg import number

# Beyond this many boxes a picture is folded: first chains of single parents, then the oldest births.
MOST_BOXES = 32
_SHORTEST_CHAIN = 3
_PADDING = 8.0
_MARGIN = 12.0
# Fills for where a lineage begins; all others are white.
_FILLS = {"zoo": "#cfe3f2", "random": "#f7f0a6", "folded": "#eeeeee"}


@dataclass(frozen=True, repr=False)
class Genealogy:
    """A birth and all its ancestors. ``graph`` is a networkx DiGraph from parents to children with the node attributes
    ``generation``, ``operator``, ``expression``, ``digest`` and ``fitness``."""

    birth: int
    graph: networkx.DiGraph
    knowledge: KnowledgeTypes | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many of the births came about by each operator, the most frequent first."""
        return dict(Counter(operator for _, operator in self.graph.nodes(data="operator")).most_common())

    @cached_property
    def _folded(self) -> networkx.DiGraph:
        return fold(self.graph, self.birth)

    @cached_property
    def _plan(self) -> tuple[dict[Any, list[TextLine]], Placement]:
        lines = {node: self._lines(node, facts) for node, facts in self._folded.nodes(data=True)}
        sizes = {
            node: (max(line.width for line in own) + 2 * _PADDING, sum(line.height for line in own) + _PADDING)
            for node, own in lines.items()
        }
        return lines, plan(self._folded, sizes)

    def _lines(self, node: Any, facts: dict[str, Any]) -> list[TextLine]:
        texts = _folded_texts(facts) if "members" in facts else self._texts(node, facts)
        return [measured(text, DETAIL_SIZE) for text in texts]

    def _texts(self, node: int, facts: dict[str, Any]) -> list[str]:
        """A birth's number, how it came about, its fitness, and what is new against the first parent."""
        parents = sorted(self.graph.predecessors(node))
        own = parse(facts["expression"], self.knowledge)
        before = parse(self.graph.nodes[parents[0]]["expression"], self.knowledge) if parents else None
        new = short(own) if before is None else change(before, own)
        return [f"#{node} {facts['operator'].replace('_', ' ')}", f"fitness {_number(facts['fitness'])}", new]

    def __repr__(self) -> str:
        generations = self.graph.nodes[self.birth]["generation"]
        ancestors = len(self.graph) - 1
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"birth {self.birth} of generation {generations} has {ancestors} ancestors; births by operator: {counts}"

    def _repr_svg_(self) -> str:
        lines, where = self._plan
        labels = [measured(f"generation {generation}", DETAIL_SIZE) for generation in where.generations]
        left = _MARGIN + max(label.width for label in labels) + _MARGIN
        width, height = left + where.width + _MARGIN, where.height + 2 * _MARGIN
        size = f'width="{number(width)}" height="{number(height)}" viewBox="0 0 {number(width)} {number(height)}"'
        body = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT_FAMILY}">',
            f"<title>Genealogy of birth {self.birth}</title><desc>{escape(str(self))}</desc>",
            f'<rect width="{number(width)}" height="{number(height)}" fill="{PAPER}"/>',
            *_generation_labels(where, labels),
            *(f'<path d="{_way(where, edge, left)}" fill="none" stroke="{LINE}"/>' for edge in where.ways),
        ]
        for row, top in zip(where.rows, where.tops, strict=True):
            for node in row:
                if where.places[node].box:
                    facts, place = self._folded.nodes[node], where.places[node]
                    corner = (left + place.x - place.width / 2, _MARGIN + top)
                    body += _box(facts, lines[node], corner, (place.width, place.height), node == self.birth)
        return "\n".join([*body, "</svg>"])

    def _repr_html_(self) -> str:
        folded = len(self.graph) - sum("members" not in facts for _, facts in self._folded.nodes(data=True))
        note = f" {folded} of them are folded into grey boxes." if folded else ""
        sentence = str(self)
        words = markup.tag("p", f"{sentence[0].upper()}{sentence[1:]}.{note}")
        return words + markup.scrolling(Markup(self._repr_svg_()))


def fold(graph: networkx.DiGraph, birth: int, most: int = MOST_BOXES) -> networkx.DiGraph:
    """The graph itself, or a smaller one: chains of births with one parent and one child become one node, and if that
    is not enough all but the youngest births do. Such nodes have an attribute ``members``."""
    if len(graph) <= most:
        return graph
    group: dict[int, Any] = {node: node for node in graph}
    inner = {n for n in graph if n != birth and graph.in_degree(n) == 1 and graph.out_degree(n) == 1}
    for chain in networkx.weakly_connected_components(graph.subgraph(inner)):
        if len(chain) >= _SHORTEST_CHAIN:
            group |= dict.fromkeys(chain, ("chain", min(chain)))
    groups = set(group.values())
    if len(groups) > most:
        newest = {key: max(node for node in graph if group[node] == key) for key in groups}
        old = set(sorted(groups, key=newest.__getitem__)[: len(groups) - most + 1])
        group = {node: ("earlier", 0) if key in old else key for node, key in group.items()}
    return _quotient(graph, group)


def _quotient(graph: networkx.DiGraph, group: dict[int, Any]) -> networkx.DiGraph:
    members: dict[Any, list[int]] = {}
    for node in sorted(graph):
        members.setdefault(group[node], []).append(node)
    folded = networkx.DiGraph()
    for key, nodes in members.items():
        facts = dict(graph.nodes[nodes[-1]])
        if not isinstance(key, int):
            facts |= {"members": nodes, "first": graph.nodes[nodes[0]], "whole": key[0] == "earlier"}
        folded.add_node(key, **facts)
    folded.add_edges_from((group[a], group[b]) for a, b in graph.edges if group[a] != group[b])
    return folded


def _folded_texts(facts: dict[str, Any]) -> list[str]:
    first, last = facts["first"], facts
    what = "earlier births" if facts["whole"] else "births in a row"
    span = f"generations {first['generation']} to {last['generation']}"
    if first["generation"] == last["generation"]:
        span = f"generation {last['generation']}"
    fitness = [] if facts["whole"] else [f"fitness {_number(first['fitness'])} to {_number(last['fitness'])}"]
    return [f"{len(facts['members'])} {what}", span, *fitness]


def _number(fitness: float | None) -> str:
    return "–" if fitness is None else f"{fitness:.4f}"


def _generation_labels(where: Placement, labels: list[TextLine]) -> list[str]:
    """Each generation's label at its first row."""
    found = []
    for index, (generation, top) in enumerate(zip(where.generations, where.tops, strict=True)):
        if index == 0 or generation != where.generations[index - 1]:
            place = f'x="{number(_MARGIN)}" y="{number(_MARGIN + top + DETAIL_SIZE)}" font-size="{number(DETAIL_SIZE)}"'
            found.append(f'<text {place} fill="{INK}">{labels[index].text}</text>')
    return found


def _way(where: Placement, edge: tuple[Any, Any], left: float) -> str:
    """An edge from box to box; it goes straight down where it passes a row."""
    keys = where.ways[edge]
    row_of = {key: index for index, row in enumerate(where.rows) for key in row}
    pieces: list[str] = []
    before = (0.0, 0.0)
    for index, key in enumerate(keys):
        x, top, place = left + where.places[key].x, _MARGIN + where.tops[row_of[key]], where.places[key]
        bottom = top + (place.height if place.box else where.heights[row_of[key]])
        if index == 0:
            pieces.append(f"M{number(x)},{number(bottom)}")
        else:
            middle = number((before[1] + top) / 2)
            pieces.append(f"C{number(before[0])},{middle} {number(x)},{middle} {number(x)},{number(top)}")
            if index < len(keys) - 1:
                pieces.append(f"V{number(bottom)}")
        before = (x, bottom)
    return "".join(pieces)


def _box(
    facts: dict[str, Any], lines: list[TextLine], corner: tuple[float, float], size: tuple[float, float], own: bool
) -> list[str]:
    fill = _FILLS.get("folded" if "members" in facts else facts["operator"], PAPER)
    x, y = corner
    place = f'x="{number(x)}" y="{number(y)}" width="{number(size[0])}" height="{number(size[1])}" rx="3"'
    body = [f'<g><title>{escape(facts["expression"])}</title><rect {place} fill="{fill}" stroke="{INK}" '
            f'stroke-width="{2.4 if own else 0.8}"/>']  # fmt: skip
    down = y + _PADDING / 2
    for index, line in enumerate(lines):
        weight = ' font-weight="bold"' if own and index == 0 else ""
        at = f'x="{number(x + _PADDING)}" y="{number(down + line.height * 0.76)}" font-size="{number(line.size)}"'
        body.append(f'<text {at} fill="{INK}"{weight}>{escape(line.text)}</text>')
        down += line.height
    return [*body, "</g>"]
