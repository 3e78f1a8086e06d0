"""The panels of what wins: operations alone, in pairs, and as the run went on."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from kdzero_gp.analysis.markup import Cell, chart, label, tag
from kdzero_gp.analysis.statistics import operation_success, pair_success, success_over_time
from kdzero_gp.common import real
from kdzero_gp.report.panels.snapshot import Snapshot

ROLES = ("knowledge", "transform", "distance", "calibration")
PAIR_KINDS = ("transform × distance", "distance × calibration", "transform × transform")
TITLES = {
    "knowledge": "Knowledge", "transform": "Transforms", "distance": "Distances", "calibration": "Weights",
    "transform × distance": "Transform and distance", "distance × calibration": "Distance and weight",
    "transform × transform": "Two transforms",
}  # fmt: skip
# Pictures leave out what fewer distillers use: its share among the best is chance.
LEAST_DISTILLERS, LEAST_SHARE = 3, 0.005
WINNERS, LOSERS, PAIRS = 7, 3, 8
PAIR_TABLE_ROWS = 60
Row = dict[str, Any]


def operations_panel(snapshot: Snapshot) -> dict[str, Any]:
    """Which knowledge, transforms, distances and weights win, each role by itself."""
    rows = operation_success(snapshot.births, snapshot.evaluations)
    cards = []
    for role in ROLES:
        shown = _extremes([row for row in rows if row["role"] == role])
        cards.append((TITLES[role], role, [(row["name"], row) for row in shown]))
    body = [[Cell(tag("code", row["name"])), Cell(row["role"]), *_cells(row)] for row in rows]
    return {"cards": cards, "headers": ["operation", "kind", *_HEADERS], "rows": body}


def pairs_panel(snapshot: Snapshot) -> dict[str, Any]:
    """Which pairs of operations win."""
    rows = pair_success(snapshot.births, snapshot.evaluations)
    cards = []
    for kind in PAIR_KINDS:
        gaining = [row for row in _by_gain([row for row in rows if row["kind"] == kind]) if row["lift"] > 1][:PAIRS]
        named = [(f"{row['first']} + {row['second']}", row) for row in gaining]
        cards.append((TITLES[kind], kind.split()[0], named))
    shown = sorted(rows, key=lambda r: (-r["share_best"], -r["distillers"], r["first"], r["second"]))[:PAIR_TABLE_ROWS]
    body = [
        [Cell(tag("code", row["first"])), Cell(tag("code", row["second"])), Cell(row["kind"]), *_cells(row)]
        for row in shown
    ]
    return {"cards": cards, "headers": ["first", "second", "kind", *_HEADERS], "rows": body, "total": len(rows)}


_HEADERS = ["distillers", "births", "of the best %", "of all %", "factor", "mean rank %", "best fitness"]


def _cells(row: Row) -> list[Cell]:
    shares = [100 * row["share_best"], 100 * row["share"]]
    return [
        Cell(f"{row['distillers']:,}", row["distillers"]), Cell(f"{row['births']:,}", row["births"]),
        *(Cell(f"{share:.1f}", share) for share in shares), Cell(f"{row['lift']:.2f}", row["lift"]),
        Cell(f"{100 * row['percentile']:.0f}", row["percentile"]), Cell(real(row["best"]), row["best"]),
    ]  # fmt: skip


def _by_gain(rows: Sequence[Row]) -> list[Row]:
    """Rows with enough distillers, the largest gain in share first."""
    most = max((row["distillers"] / row["share"] for row in rows), default=0.0)
    enough = max(LEAST_DISTILLERS, LEAST_SHARE * most)
    kept = [row for row in rows if row["distillers"] >= enough] or list(rows)
    return sorted(kept, key=lambda row: (row["share"] - row["share_best"], -row["distillers"]))


def _extremes(rows: Sequence[Row]) -> list[Row]:
    """The operations that gain most, and some of those that lose most."""
    ordered = _by_gain(rows)
    return ordered if len(ordered) <= WINNERS + LOSERS else ordered[:WINNERS] + ordered[-LOSERS:]


# --- over time ----------------------------------------------------------------------------------------------------

CELL, NAMES, MOST_RADIUS = 22.0, 126.0, 10.0
MOST_ROWS = 12
# Mean ranks crowd around the middle: the colours change here.
RANKS = (0.3, 0.43, 0.57, 0.7)


def time_panel(snapshot: Snapshot) -> dict[str, Any]:
    """How much each operation was used, and how well it did, as the run went on."""
    rows = success_over_time(snapshot.births, snapshot.evaluations)
    legend = [f"best {100 * RANKS[0]:.0f} %", "", "middle", "", f"worst {100 - 100 * RANKS[-1]:.0f} %"]
    cards = [_time_card(role, [row for row in rows if row["role"] == role]) for role in ROLES]
    return {"legend": legend, "cards": [card for card in cards if card]}


def _time_card(role: str, rows: Sequence[Row]) -> tuple[str, Markup, int] | None:
    """Title, chart, and how many operations it leaves out."""
    if not rows:
        return None
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    order = sorted(by_name, key=lambda name: (-sum(row["share"] for row in by_name[name]), name))
    shown = order[:MOST_ROWS]
    return TITLES[role], _dots(TITLES[role], [by_name[name] for name in shown]), len(order) - len(shown)


def _dots(title: str, lines: Sequence[Sequence[Row]]) -> Markup:
    columns = len(lines[0])
    width, height = NAMES + CELL * columns, CELL * len(lines) + 22
    body = []
    for index, line in enumerate(lines):
        y = CELL * (index + 0.5)
        body.append(tag("path", kind="grid", d=f"M{NAMES},{y:.1f}H{width:g}"))
        body.append(label(NAMES - 8, y + 4, line[0]["name"], "code", "end"))
        body += [_dot(NAMES + CELL * (row["bin"] + 0.5), y, row) for row in line if row["births"]]
    first, last = lines[0][0]["first"], lines[0][-1]["last"]
    body.append(label(NAMES, height - 4, f"birth {first:,}", "tick"))
    body.append(label(width, height - 4, f"{last:,}", "tick", "end"))
    return chart(width, height, f"{title}: use and success over time", body)


def _dot(x: float, y: float, row: Row) -> Markup:
    radius = max(1.2, MOST_RADIUS * math.sqrt(row["share"]))
    words = (
        f"{row['name']}, births {row['first']:,}–{row['last']:,}: {row['births']:,} births "
        f"({100 * row['share']:.0f} %), mean rank {100 * row['percentile']:.0f} %"
    )
    place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:.1f}"}
    return tag("circle", tag("title", words), kind=f"s{bisect.bisect(RANKS, row['percentile'])}", **place)
