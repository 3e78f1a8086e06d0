"""What is shown of a genealogy: short ones whole, of long ones the line of the fittest parents with what mattered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx

# Genealogies up to this size are shown whole; larger ones are cut down to about this size.
SHOWN = 60
# Of a long line, the births that improved most are kept, and the last ones before the winner.
KEPT_IMPROVEMENTS, KEPT_LAST = 14, 8
# The steps of a collapsed stretch that are told one by one.
TOLD_STEPS = 12


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


@dataclass
class Ancestry:
    """The picture's nodes and its edges from parent to child, by key."""

    nodes: dict[str, Shown] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    winner: str = ""

    def add(self, node: Shown) -> None:
        self.nodes[node.key] = node


def ancestry(graph: networkx.DiGraph, winner: int) -> Ancestry:
    """Choose what is shown of ``facts.genealogy``'s graph."""
    line = main_line(graph, winner)
    found = Ancestry(winner=str(winner))
    kept = set(graph) if len(graph) <= SHOWN else _kept(graph, line)
    on_line = set(line)
    for number in sorted(kept):
        found.add(Shown(str(number), "birth", (number,), 1, number in on_line, improved(graph, number)))
    for parent, child in graph.edges:
        if parent in kept and child in kept:
            found.edges.append((str(parent), str(child)))
    if len(kept) < len(graph):
        _add_stretches(found, line, kept)
        _add_earlier(found, graph, kept, on_line)
    return found


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


def _kept(graph: networkx.DiGraph, line: Sequence[int]) -> set[int]:
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
    room = max(0, SHOWN - len(kept))
    return kept | set(sorted(partners, reverse=True)[:room])


def _add_stretches(found: Ancestry, line: Sequence[int], kept: set[int]) -> None:
    """The parts of the line between kept births."""
    waiting: list[int] = []
    before = ""
    for number in line:
        if number not in kept:
            waiting.append(number)
            continue
        if waiting:
            key = f"stretch-{waiting[0]}"
            found.add(Shown(key, "stretch", tuple(waiting), len(waiting), main=True))
            found.edges += [(before, key), (key, str(number))]
            waiting = []
        before = str(number)


def _add_earlier(found: Ancestry, graph: networkx.DiGraph, kept: set[int], on_line: set[int]) -> None:
    """For kept births beside the line: how many ancestors they have that are not shown."""
    import networkx

    for number in sorted(kept - on_line):
        if all(parent in kept for parent in graph.predecessors(number)):
            continue
        hidden = networkx.ancestors(graph, number) - kept
        key = f"earlier-{number}"
        found.add(Shown(key, "earlier", tuple(sorted(hidden, reverse=True)[:TOLD_STEPS]), len(hidden)))
        found.edges.append((key, str(number)))


# --- places -------------------------------------------------------------------------------------------------------


def places(found: Ancestry) -> dict[str, tuple[int, float]]:
    """Level and lane of each node: the winner stands on level 0, parents on lower levels than their children and
    next to the nearest; the main line is lane 0."""
    children: dict[str, list[str]] = {key: [] for key in found.nodes}
    parents: dict[str, list[str]] = {key: [] for key in found.nodes}
    for parent, child in found.edges:
        children[parent].append(child)
        parents[child].append(parent)
    levels = _levels(found.winner, children, parents)
    lanes: dict[str, float] = {}
    for level in sorted(set(levels.values()), reverse=True):
        members = [key for key in found.nodes if levels[key] == level]
        _place(members, found, children, levels, lanes)
    return {key: (levels[key], lanes[key]) for key in found.nodes}


def _levels(winner: str, children: dict[str, list[str]], parents: dict[str, list[str]]) -> dict[str, int]:
    """Minus the length of the longest way to the winner."""
    left = {key: len(following) for key, following in children.items()}
    levels = {winner: 0}
    ready = [winner]
    while ready:
        key = ready.pop()
        for parent in parents[key]:
            levels[parent] = min(levels.get(parent, 0), levels[key] - 1)
            left[parent] -= 1
            if not left[parent]:
                ready.append(parent)
    return levels


def _place(
    members: Sequence[str],
    found: Ancestry,
    children: dict[str, list[str]],
    levels: dict[str, int],
    lanes: dict[str, float],
) -> None:
    """Put a level's nodes near their children, each in a lane of its own. A lane that an edge of the main line or a
    longer edge passes through is taken."""
    level = levels[members[0]]
    taken = {0.0} if not any(found.nodes[key].main for key in members) else set()
    for parent, child in found.edges:
        if levels[child] > level > levels[parent] and child in lanes:
            taken.add(lanes[child])
    wish = {key: sum(lanes[child] for child in children[key]) / max(1, len(children[key])) for key in members}
    for key in sorted(members, key=lambda key: (not found.nodes[key].main, abs(wish[key]), wish[key], key)):
        wanted = 0.0 if found.nodes[key].main else wish[key]
        lanes[key] = min(
            (float(lane) for lane in range(-len(found.nodes), len(found.nodes) + 1) if float(lane) not in taken),
            key=lambda lane: (abs(lane - wanted), -lane),
        )
        taken.add(lanes[key])


def steps(graph: networkx.DiGraph, node: Shown) -> list[dict[str, Any]]:
    """What is told of a node's births: number, generation, operator, fitness and expression of each."""
    names = ("generation", "operator", "fitness", "expression")
    return [
        {"number": number, **{name: graph.nodes[number][name] for name in names}}
        for number in node.members[:TOLD_STEPS]
    ]
