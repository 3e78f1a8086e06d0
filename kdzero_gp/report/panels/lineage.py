"""The panel of the winner's genealogy: a graph to move in, and what each birth was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from kdzero_gp.analysis.markup import label, tag
from kdzero_gp.analysis.statistics import genealogy
from kdzero_gp.common import real
from kdzero_gp.report.panels.ancestry import Ancestry, Shown, ancestry, main_line, places, steps
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


def lineage_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The ancestors of the best evolved distiller."""
    if snapshot.winner is None:
        return {"missing": "There is no winner yet."}
    digest = snapshot.winner.name
    number = next((birth.number for birth in snapshot.births if birth.digest == digest), None)
    if number is None:
        return {"missing": "The best distiller is evaluated but its birth is not written yet."}
    graph = genealogy(snapshot.births, number, snapshot.evaluations)
    shown = ancestry(graph, number)
    births = {
        key: {"title": _title(node), "count": node.count, "steps": _told(graph, node)}
        for key, node in shown.nodes.items()
    }
    line = len(main_line(graph, number)) - 1
    return {
        "missing": "", "ancestors": len(graph) - 1, "line": line, "picture": _picture(graph, shown), "births": births
    }  # fmt: skip


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


def _picture(graph: networkx.DiGraph, found: Ancestry) -> Markup:
    """Founders above, the winner at the foot."""
    where = places(found)
    top, left = min(level for level, _ in where.values()), min(lane for _, lane in where.values())
    right = max(lane for _, lane in where.values())
    centres = {
        key: (MARGIN + WIDTH / 2 + LANE * (lane - left), MARGIN + HEIGHT / 2 + LEVEL * (level - top))
        for key, (level, lane) in where.items()
    }
    width, height = 2 * MARGIN + WIDTH + LANE * (right - left), 2 * MARGIN + HEIGHT - LEVEL * top
    edges = [_edge(found, centres, parent, child) for parent, child in found.edges]
    parents: dict[str, list[str]] = {}
    for parent, child in found.edges:
        parents.setdefault(child, []).append(parent)
    order = sorted(found.nodes, key=lambda key: where[key])
    nodes = [_node(graph, found, key, centres[key], parents.get(key, [])) for key in order]
    box = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    words = "Genealogy; arrow keys walk, Enter chooses"
    return tag("svg", tag("g", *edges, *nodes, kind="moved"), kind="genealogy", **box, role="group", aria_label=words)


def _edge(found: Ancestry, centres: dict[str, tuple[float, float]], parent: str, child: str) -> Markup:
    (x, y), (to_x, to_y) = centres[parent], centres[child]
    start, end = y + HEIGHT / 2, to_y - HEIGHT / 2
    kind = "main" if found.nodes[parent].main and found.nodes[child].main else "side"
    way = f"M{x:.0f},{start:.0f}"
    if x != to_x:  # down its own lane, then over: the lane is free, the child's may not be
        turn, middle = end - TURN, end - TURN / 2
        way += f"V{turn:.0f}C{x:.0f},{middle:.0f} {to_x:.0f},{middle:.0f} {to_x:.0f},{end:.0f}"
    else:
        way += f"V{end:.0f}"
    return tag("path", kind=kind, d=way)


def _node(
    graph: networkx.DiGraph, found: Ancestry, key: str, centre: tuple[float, float], parents: list[str]
) -> Markup:
    node = found.nodes[key]
    upper, lower = _lines(graph, node)
    kinds = ["node", node.kind, *(["main"] if node.main else []), *(["improved"] if node.improved else [])]
    kinds += ["winner"] if key == found.winner else []
    x, y = centre
    box = {"x": f"{x - WIDTH / 2:g}", "y": f"{y - HEIGHT / 2:g}", "width": f"{WIDTH:g}", "height": f"{HEIGHT:g}"}
    parts = [tag("rect", **box, rx=4)]
    if node.improved:
        parts.append(tag("path", kind="mark", d=f"M{x + 58:g},{y + 12:g}l5,-9l5,9z"))
    parts += [label(x - 66, y - 4, upper, "upper"), label(x - 66, y + 12, lower, "lower")]
    facts = {"data_key": key, "data_parents": " ".join(parents), "aria_label": f"{_title(node)}, {upper}, {lower}"}
    return tag("g", *parts, kind=" ".join(kinds), **facts, tabindex=-1, role="button")


def _lines(graph: networkx.DiGraph, node: Shown) -> tuple[str, str]:
    """The two lines of text in a node."""
    if node.kind == "birth":
        facts = graph.nodes[node.members[0]]
        fitness = "rejected" if facts["fitness"] is None else real(facts["fitness"], 3)
        return OPERATORS.get(facts["operator"], facts["operator"]), f"{fitness} · birth {node.members[0]:,}"
    return f"⋯ {node.count:,} {'births' if node.kind == 'stretch' else 'earlier'}", "not shown one by one"
