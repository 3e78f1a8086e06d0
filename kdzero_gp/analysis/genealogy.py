"""The genealogy of a birth: the graph of its ancestors, and a picture of it in which long stretches are folded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import groupby
from typing import Any

import networkx
from markupsafe import Markup

from kdzero_gp.analysis import markup
from kdzero_gp.analysis.comparison import change, short
from kdzero_gp.analysis.layered_layout import Placement, layered_layout
from kdzero_gp.common import real
from kdzero_gp.compiler import parse
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.draw.labels import TextLine, measured
from kdzero_gp.draw.style import DETAIL_SIZE, FONT_FAMILY, INK, LINE, PAPER
from kdzero_gp.draw.svg import number as rounded
from kdzero_gp.search.storage import StoredBirth, StoredEvaluation

# Genealogies up to this size are shown whole, in a notebook up to the second; larger ones are cut down to about it.
SHOWN, MOST_BOXES = 60, 32
# Of a long line, the births that improved most are kept, and the last ones before the winner.
KEPT_IMPROVEMENTS, KEPT_LAST = 14, 8
# The steps of a collapsed stretch that are told one by one.
TOLD_STEPS = 12
_PADDING = 8.0
_MARGIN = 12.0
# Fills for where a lineage begins; all others are white.
_FILLS = {"zoo": "#cfe3f2", "random": "#f7f0a6", "folded": "#eeeeee"}


def genealogy(
    births: Sequence[StoredBirth], number: int, evaluations: Sequence[StoredEvaluation] = ()
) -> networkx.DiGraph:
    """A birth and all its ancestors, with edges from parent to child. Node attributes: ``generation``, ``operator``,
    ``expression``, ``digest``, ``status`` and ``fitness`` (both None where ``evaluations`` has none). Raises
    ``KeyError`` for a number that no birth has."""
    judged = {evaluation.digest: evaluation for evaluation in evaluations}
    by_number = {birth.number: birth for birth in births}
    result = networkx.DiGraph()
    waiting = [by_number[number]]
    while waiting:
        birth = waiting.pop()
        if birth.number in result and "digest" in result.nodes[birth.number]:
            continue
        evaluation = judged.get(birth.digest)
        result.add_node(
            birth.number, generation=birth.generation, operator=birth.operator, expression=birth.expression,
            digest=birth.digest, status=evaluation and evaluation.status, fitness=evaluation and evaluation.fitness,
        )  # fmt: skip
        for parent in dict.fromkeys(birth.parents):
            result.add_edge(parent, birth.number)
            waiting.append(by_number[parent])
    return result


@dataclass(frozen=True)
class Shown:
    """A node of the picture: a birth (``members`` has its number), a stretch of births in a line, or the earlier
    ancestors of a birth (``kind`` is birth, stretch or earlier). ``main``: on the line of the fittest parents.
    ``improved``: fitter than all its parents."""

    key: str
    kind: str
    members: tuple[int, ...]
    count: int
    main: bool = False
    improved: bool = False


def condensed(graph: networkx.DiGraph, winner: int, most: int = SHOWN) -> networkx.DiGraph:
    """What is shown of ``genealogy``'s graph: a graph of text keys whose nodes have a ``shown`` and the ``generation``
    of its youngest member. Up to ``most`` births it is the whole; of more it is the line of the fittest parents."""
    line = main_line(graph, winner)
    kept = set(graph) if len(graph) <= most else _kept(graph, line, most)
    shown = [
        Shown(str(number), "birth", (number,), 1, number in set(line), improved(graph, number))
        for number in sorted(kept)
    ]
    edges = [(str(parent), str(child)) for parent, child in graph.edges if parent in kept and child in kept]
    if len(kept) < len(graph):
        for more, more_edges in (_stretches(line, kept), _earlier(graph, kept, set(line))):
            shown += more
            edges += more_edges
    result = networkx.DiGraph()
    for node in shown:
        generation = max(graph.nodes[number]["generation"] for number in node.members)
        result.add_node(node.key, shown=node, generation=generation)
    result.add_edges_from(edges)
    return result


def _fitness(graph: networkx.DiGraph, number: int) -> float:
    value = graph.nodes[number]["fitness"]
    return math.inf if value is None else value


def main_line(graph: networkx.DiGraph, winner: int) -> list[int]:
    """From a founder to the winner, always through the fitter parent (of equal ones the older)."""
    line = [winner]
    while parents := list(graph.predecessors(line[-1])):
        line.append(min(parents, key=lambda number: (_fitness(graph, number), number)))
    return line[::-1]


def improved(graph: networkx.DiGraph, number: int) -> bool:
    """Whether a birth is fitter than all its parents; founders are not."""
    parents = [_fitness(graph, parent) for parent in graph.predecessors(number)]
    return bool(parents) and _fitness(graph, number) < min(parents)


def _kept(graph: networkx.DiGraph, line: Sequence[int], most: int) -> set[int]:
    """The line's ends, its last births, its largest improvements on everything before, and their other parents."""
    best, gains = math.inf, []
    for number in line:
        value = _fitness(graph, number)
        if value < best:
            gains.append((best - value if best < math.inf else 0.0, number))
        best = min(best, value)
    largest = [number for _, number in sorted(gains, reverse=True)[:KEPT_IMPROVEMENTS]]
    kept = {line[0], *line[-KEPT_LAST:], *largest}
    # a gap of a single birth is no shorter than the birth itself
    kept |= {number for before, number, after in zip(line, line[1:], line[2:], strict=False) if {before, after} <= kept}
    partners = {parent for number in kept for parent in graph.predecessors(number)} - set(line)
    room = max(0, most - len(kept))
    return kept | set(sorted(partners, reverse=True)[:room])


def _stretches(line: Sequence[int], kept: Set[int]) -> tuple[list[Shown], list[tuple[str, str]]]:
    """The parts of the line between kept births."""
    shown, edges = [], []
    for hidden, members in groupby(range(len(line)), key=lambda index: line[index] not in kept):
        if hidden:
            places = list(members)
            numbers = tuple(line[index] for index in places)
            key = f"stretch-{numbers[0]}"
            shown.append(Shown(key, "stretch", numbers, len(numbers), main=True))
            edges += [(str(line[places[0] - 1]), key), (key, str(line[places[-1] + 1]))]
    return shown, edges


def _earlier(graph: networkx.DiGraph, kept: Set[int], on_line: Set[int]) -> tuple[list[Shown], list[tuple[str, str]]]:
    """For kept births beside the line: how many ancestors they have that are not shown."""
    shown, edges = [], []
    for number in sorted(kept - on_line):
        if not all(parent in kept for parent in graph.predecessors(number)):
            hidden = sorted(networkx.ancestors(graph, number) - kept, reverse=True)
            shown.append(Shown(f"earlier-{number}", "earlier", tuple(hidden[:TOLD_STEPS]), len(hidden)))
            edges.append((f"earlier-{number}", str(number)))
    return shown, edges


# --- the picture --------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Genealogy:
    """A birth and all its ancestors. ``graph`` is a networkx DiGraph from parents to children with the node attributes
    ``generation``, ``operator``, ``expression``, ``digest``, ``status`` and ``fitness``."""

    birth: int
    graph: networkx.DiGraph
    knowledge: KnowledgeTypes | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many of the births came about by each operator, the most frequent first."""
        return dict(Counter(operator for _, operator in self.graph.nodes(data="operator")).most_common())

    @cached_property
    def _plan(self) -> tuple[networkx.DiGraph, dict[str, list[TextLine]], Placement]:
        tree = condensed(self.graph, self.birth, MOST_BOXES)
        lines = {
            key: [measured(text, DETAIL_SIZE) for text in self._texts(shown)] for key, shown in tree.nodes(data="shown")
        }
        sizes = {
            key: (max(line.width for line in own) + 2 * _PADDING, sum(line.height for line in own) + _PADDING)
            for key, own in lines.items()
        }
        return tree, lines, layered_layout(tree, sizes)

    def _texts(self, shown: Shown) -> list[str]:
        """A birth's number, how it came about, its fitness, and what is new against the first parent."""
        first, last = (self.graph.nodes[shown.members[index]] for index in (0, -1))
        if shown.kind == "earlier":
            return [f"{shown.count} earlier births", f"up to generation {first['generation']}"]
        if shown.kind == "stretch":
            span = f"generations {first['generation']} to {last['generation']}"
            if first["generation"] == last["generation"]:
                span = f"generation {last['generation']}"
            return [
                f"{shown.count} births in a row",
                span,
                f"fitness {real(first['fitness'])} to {real(last['fitness'])}",
            ]
        (node,) = shown.members
        parents = sorted(self.graph.predecessors(node))
        own = parse(first["expression"], self.knowledge)
        before = parse(self.graph.nodes[parents[0]]["expression"], self.knowledge) if parents else None
        new = short(own) if before is None else change(before, own)
        return [f"#{node} {first['operator'].replace('_', ' ')}", f"fitness {real(first['fitness'])}", new]

    def __repr__(self) -> str:
        generations = self.graph.nodes[self.birth]["generation"]
        ancestors = len(self.graph) - 1
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"birth {self.birth} of generation {generations} has {ancestors} ancestors; births by operator: {counts}"

    def _repr_svg_(self) -> str:
        tree, lines, where = self._plan
        labels = [measured(f"generation {generation}", DETAIL_SIZE) for generation in where.generations]
        left = _MARGIN + max(label.width for label in labels) + _MARGIN
        width, height = left + where.width + _MARGIN, where.height + 2 * _MARGIN
        size = f'width="{rounded(width)}" height="{rounded(height)}" viewBox="0 0 {rounded(width)} {rounded(height)}"'
        body = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT_FAMILY}">',
            f"<title>Genealogy of birth {self.birth}</title><desc>{escape(str(self))}</desc>",
            f'<rect width="{rounded(width)}" height="{rounded(height)}" fill="{PAPER}"/>',
            *_generation_labels(where, labels),
            *(f'<path d="{where.path(edge, left, _MARGIN)}" fill="none" stroke="{LINE}"/>' for edge in where.ways),
        ]
        for row, top in zip(where.rows, where.tops, strict=True):
            for node in row:
                if where.places[node].box:
                    shown, place = tree.nodes[node]["shown"], where.places[node]
                    facts = {**self.graph.nodes[shown.members[-1]], "kind": shown.kind}
                    corner = (left + place.x - place.width / 2, _MARGIN + top)
                    area, own = (place.width, place.height), node == str(self.birth)
                    body += _box(facts, lines[str(node)], corner, area, own)
        return "\n".join([*body, "</svg>"])

    def _repr_html_(self) -> str:
        folded = len(self.graph) - sum(shown.kind == "birth" for _, shown in self._plan[0].nodes(data="shown"))
        note = f" {folded} of them are folded into grey boxes." if folded else ""
        sentence = str(self)
        words = markup.tag("p", f"{sentence[0].upper()}{sentence[1:]}.{note}")
        return markup.plain(words, Markup(self._repr_svg_()))


def _generation_labels(where: Placement, labels: list[TextLine]) -> list[str]:
    """Each generation's label at its first row."""
    found = []
    for index, (generation, top) in enumerate(zip(where.generations, where.tops, strict=True)):
        if index == 0 or generation != where.generations[index - 1]:
            place = (
                f'x="{rounded(_MARGIN)}" y="{rounded(_MARGIN + top + DETAIL_SIZE)}" font-size="{rounded(DETAIL_SIZE)}"'
            )
            found.append(f'<text {place} fill="{INK}">{labels[index].text}</text>')
    return found


def _box(
    facts: dict[str, Any], lines: list[TextLine], corner: tuple[float, float], size: tuple[float, float], own: bool
) -> list[str]:
    fill = _FILLS.get(facts["operator"] if facts["kind"] == "birth" else "folded", PAPER)
    x, y = corner
    place = f'x="{rounded(x)}" y="{rounded(y)}" width="{rounded(size[0])}" height="{rounded(size[1])}" rx="3"'
    body = [f'<g><title>{escape(facts["expression"])}</title><rect {place} fill="{fill}" stroke="{INK}" '
            f'stroke-width="{2.4 if own else 0.8}"/>']  # fmt: skip
    down = y + _PADDING / 2
    for index, line in enumerate(lines):
        weight = ' font-weight="bold"' if own and index == 0 else ""
        at = f'x="{rounded(x + _PADDING)}" y="{rounded(down + line.height * 0.76)}" font-size="{rounded(line.size)}"'
        body.append(f'<text {at} fill="{INK}"{weight}>{escape(line.text)}</text>')
        down += line.height
    return [*body, "</g>"]
