"""The panel of the winner's genealogy: a graph to move in, and what each birth was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx
from markupsafe import Markup

from kdzero_gp.analysis.genealogy import TOLD_STEPS, Shown, condensed, genealogy, main_line
from kdzero_gp.analysis.layered_layout import layered_layout
from kdzero_gp.analysis.markup import label, tag
from kdzero_gp.common import real
from kdzero_gp.report.panels.snapshot import Snapshot

WIDTH, HEIGHT, MARGIN = 148.0, 40.0, 10.0
# What an operator did, in words.
OPERATORS = {
    "zoo": "published method", "random": "random tree", "crossover": "crossover", "subtree": "new subtree",
    "node": "other operation", "constant": "other constant", "insert": "operation inserted", "shrink": "part removed",
    "model": "language model",
}  # fmt: skip


def genealogy_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The ancestors of the best evolved distiller."""
    if snapshot.winner is None:
        return {"missing": "There is no winner yet."}
    digest = snapshot.winner.name
    number = next((birth.number for birth in snapshot.births if birth.digest == digest), None)
    if number is None:
        return {"missing": "The best distiller is trained but its birth is not written yet."}
    graph = genealogy(snapshot.births, number, snapshot.evaluations)
    shown = condensed(graph, number)
    births = {
        key: {"title": _title(node), "count": node.count, "steps": _told(graph, node)}
        for key, node in shown.nodes(data="shown")
    }
    return {
        "missing": "", "ancestors": len(graph) - 1, "line": len(main_line(graph, number)) - 1, "births": births,
        "picture": _picture(graph, shown, str(number)),
    }  # fmt: skip


def _title(node: Shown) -> str:
    if node.kind == "birth":
        return f"Birth {node.members[0]:,}"
    if node.kind == "stretch":
        return f"{node.count:,} births in a line, {node.members[0]:,} to {node.members[-1]:,}"
    return f"{node.count:,} earlier ancestors"


def _told(graph: networkx.DiGraph, node: Shown) -> list[dict[str, Any]]:
    """Number, generation, operator, parents, fitness and expression of a node's births."""
    births = []
    for number in node.members[:TOLD_STEPS]:
        facts = graph.nodes[number]
        parents = " and ".join(f"{parent:,}" for parent in sorted(graph.predecessors(number)))
        operator = OPERATORS.get(facts["operator"], facts["operator"])
        births.append({
            "number": f"{number:,}", "generation": facts["generation"],
            "origin": operator + (f" of {parents}" if parents else ""),
            "fitness": _fitness(facts, 4),
            "expression": facts["expression"],
        })  # fmt: skip
    return births


def _fitness(facts: Mapping[str, Any], digits: int) -> str:
    """A birth's fitness, or what became of it instead."""
    if facts["fitness"] is None and facts["status"] is not None:
        return str(facts["status"].value)
    return real(facts["fitness"], digits)


def _picture(graph: networkx.DiGraph, shown: networkx.DiGraph, winner: str) -> Markup:
    """Founders above, the winner at the foot, the main line straight."""
    line = [key for key in networkx.topological_sort(shown) if shown.nodes[key]["shown"].main]
    where = layered_layout(shown, dict.fromkeys(shown, (WIDTH, HEIGHT)), line)
    width, height = where.width + 2 * MARGIN, where.height + 2 * MARGIN
    edges = []
    for parent, child in shown.edges:
        main = all(shown.nodes[key]["shown"].main for key in (parent, child))
        edges.append(tag("path", kind="main" if main else "side", d=where.path((parent, child), MARGIN, MARGIN)))
    nodes = []
    for row, top in zip(where.rows, where.tops, strict=True):
        for key in row:
            if where.places[key].box:
                centre = (MARGIN + where.places[key].x, MARGIN + top + HEIGHT / 2)
                nodes.append(
                    _node(graph, shown.nodes[key]["shown"], centre, list(shown.predecessors(key)), key == winner)
                )
    box = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    words = "Genealogy; arrow keys walk, Enter chooses"
    return tag("svg", tag("g", *edges, *nodes, kind="moved"), kind="genealogy", **box, role="group", aria_label=words)


def _node(
    graph: networkx.DiGraph, node: Shown, centre: tuple[float, float], parents: list[str], winner: bool
) -> Markup:
    upper, lower = _lines(graph, node)
    signs = {"main": node.main, "improved": node.improved, "winner": winner}
    kinds = ["node", node.kind, *(kind for kind, holds in signs.items() if holds)]
    x, y = centre
    box = {"x": f"{x - WIDTH / 2:g}", "y": f"{y - HEIGHT / 2:g}", "width": f"{WIDTH:g}", "height": f"{HEIGHT:g}"}
    parts = [tag("rect", **box, rx=4)]
    if node.improved:
        parts.append(tag("path", kind="mark", d=f"M{x + 58:g},{y + 12:g}l5,-9l5,9z"))
    parts += [label(x - 66, y - 4, upper, "upper"), label(x - 66, y + 12, lower, "lower")]
    facts = {"data_key": node.key, "data_parents": " ".join(parents), "aria_label": f"{_title(node)}, {upper}, {lower}"}
    return tag("g", *parts, kind=" ".join(kinds), **facts, tabindex=-1, role="button")


def _lines(graph: networkx.DiGraph, node: Shown) -> tuple[str, str]:
    """The two lines of text in a node."""
    if node.kind == "birth":
        facts = graph.nodes[node.members[0]]
        return OPERATORS.get(facts["operator"], facts["operator"]), f"{_fitness(facts, 3)} · birth {node.members[0]:,}"
    return f"⋯ {node.count:,} {'births' if node.kind == 'stretch' else 'earlier'}", "not shown one by one"
