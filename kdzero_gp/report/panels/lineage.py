"""The panel of the winner's genealogy: a graph to move in, and what each birth was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kdzero_gp.analysis.statistics import genealogy
from kdzero_gp.report.panels.ancestry import Ancestry, Shown, ancestry, main_line, places, steps
from kdzero_gp.report.panels.pieces import label, nothing, real, section, text
from kdzero_gp.report.panels.snapshot import Snapshot

if TYPE_CHECKING:
    import networkx

LEVEL, LANE, WIDTH, HEIGHT, MARGIN = 62.0, 166.0, 148.0, 40.0, 10.0
# A line between two lanes turns within this height, below its parent.
TURN = 22.0
# What an operator did, in words.
OPERATORS = {
    "zoo": "published method", "random": "random tree", "crossover": "crossover", "subtree": "new subtree",
    "node": "other operation", "constant": "other constant", "insert": "operation inserted", "shrink": "part removed",
}  # fmt: skip


def lineage_panel(snapshot: Snapshot) -> str:
    """The ancestors of the best evolved distiller."""
    title = "Genealogy of the winner"
    if snapshot.winner is None:
        return section("genealogy", title, "How the winner came about.", nothing("There is no winner yet."))
    digest = snapshot.winner.name
    number = next((birth.number for birth in snapshot.births if birth.digest == digest), None)
    if number is None:
        message = "The best distiller is evaluated but its birth is not written yet."
        return section("genealogy", title, "How the winner came about.", nothing(message))
    graph = genealogy(snapshot.births, number, snapshot.evaluations)
    found = ancestry(graph, number)
    line = len(main_line(graph, number))
    caption = (
        f"The winner has {len(graph) - 1:,} ancestors; the line of fittest parents, drawn bold, is {line - 1:,} births "
        "long. Green marks a birth fitter than its parents. Choose a birth to see what it was; drag to move, use the "
        "buttons or + and − to zoom, and the arrow keys to walk: up to the parents, down to the child."
    )
    return section("genealogy", title, caption, _viewer(graph, found))


def _viewer(graph: networkx.DiGraph, found: Ancestry) -> str:
    picture = _picture(graph, found)
    told = {
        key: {"title": _title(node), "count": node.count, "steps": _told(graph, node)}
        for key, node in found.nodes.items()
    }
    # the script element ends at the first "</", whatever it stands in
    data = json.dumps(told, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    buttons = "".join(
        f'<button type="button" data-act="{act}" aria-label="{words}">{sign}</button>'
        for act, words, sign in (("in", "Zoom in", "+"), ("out", "Zoom out", "−"), ("all", "Show all", "All"))
    )
    return (
        f'<div class="viewer"><div class="tools" hidden>{buttons}</div><div class="stage">{picture}</div>'
        '<div class="facts" aria-live="polite"></div></div>'
        f'<script type="application/json" id="births">{data}</script>'
    )


def _title(node: Shown) -> str:
    if node.kind == "birth":
        return f"Birth {node.members[0]:,}"
    if node.kind == "stretch":
        return f"{node.count:,} births in a line, {node.members[0]:,} to {node.members[-1]:,}"
    return f"{node.count:,} earlier ancestors"


def _told(graph: networkx.DiGraph, node: Shown) -> list[dict[str, Any]]:
    found = []
    for step in steps(graph, node):
        parents = " and ".join(f"{parent:,}" for parent in sorted(graph.predecessors(step["number"])))
        operator = OPERATORS.get(step["operator"], step["operator"])
        origin = operator + (f" of {parents}" if parents else "")
        found.append({
            "number": f"{step['number']:,}", "generation": step["generation"], "origin": origin,
            "fitness": "rejected" if step["fitness"] is None else real(step["fitness"]),
            "expression": step["expression"],
        })  # fmt: skip
    return found


def _picture(graph: networkx.DiGraph, found: Ancestry) -> str:
    """Founders above, the winner at the foot."""
    where = places(found)
    top, left = min(level for level, _ in where.values()), min(lane for _, lane in where.values())
    right = max(lane for _, lane in where.values())
    centres = {
        key: (MARGIN + WIDTH / 2 + LANE * (lane - left), MARGIN + HEIGHT / 2 + LEVEL * (level - top))
        for key, (level, lane) in where.items()
    }
    width, height = 2 * MARGIN + WIDTH + LANE * (right - left), 2 * MARGIN + HEIGHT - LEVEL * top
    edges = "".join(_edge(found, centres, parent, child) for parent, child in found.edges)
    parents: dict[str, list[str]] = {}
    for parent, child in found.edges:
        parents.setdefault(child, []).append(parent)
    order = sorted(found.nodes, key=lambda key: where[key])
    nodes = "".join(_node(graph, found, key, centres[key], parents.get(key, [])) for key in order)
    return (
        f'<svg class="genealogy" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="group" '
        f'aria-label="Genealogy; arrow keys walk, Enter chooses"><g class="moved">{edges}{nodes}</g></svg>'
    )


def _edge(found: Ancestry, centres: dict[str, tuple[float, float]], parent: str, child: str) -> str:
    (x, y), (to_x, to_y) = centres[parent], centres[child]
    start, end = y + HEIGHT / 2, to_y - HEIGHT / 2
    kind = "main" if found.nodes[parent].main and found.nodes[child].main else "side"
    way = f"M{x:.0f},{start:.0f}"
    if x != to_x:  # down its own lane, then over: the lane is free, the child's may not be
        turn, middle = end - TURN, end - TURN / 2
        way += f"V{turn:.0f}C{x:.0f},{middle:.0f} {to_x:.0f},{middle:.0f} {to_x:.0f},{end:.0f}"
    else:
        way += f"V{end:.0f}"
    return f'<path class="{kind}" d="{way}"/>'


def _node(graph: networkx.DiGraph, found: Ancestry, key: str, centre: tuple[float, float], parents: list[str]) -> str:
    node = found.nodes[key]
    upper, lower = _lines(graph, node)
    kinds = ["node", node.kind, *(["main"] if node.main else []), *(["improved"] if node.improved else [])]
    kinds += ["winner"] if key == found.winner else []
    x, y = centre
    box = f'x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH:g}" height="{HEIGHT:g}" rx="4"'
    mark = f'<path class="mark" d="M{x + 58:g},{y + 12:g}l5,-9l5,9z"/>' if node.improved else ""
    return (
        f'<g class="{" ".join(kinds)}" data-key="{key}" data-parents="{" ".join(parents)}" tabindex="-1" role="button" '
        f'aria-label="{text(f"{_title(node)}, {upper}, {lower}")}"><rect {box}/>{mark}'
        f"{label(x - 66, y - 4, upper, 'upper')}{label(x - 66, y + 12, lower, 'lower')}</g>"
    )


def _lines(graph: networkx.DiGraph, node: Shown) -> tuple[str, str]:
    """The two lines of text in a node."""
    if node.kind == "birth":
        facts = graph.nodes[node.members[0]]
        fitness = "rejected" if facts["fitness"] is None else real(facts["fitness"], 3)
        return OPERATORS.get(facts["operator"], facts["operator"]), f"{fitness} · birth {node.members[0]:,}"
    return f"⋯ {node.count:,} {'births' if node.kind == 'stretch' else 'earlier'}", "not shown one by one"
