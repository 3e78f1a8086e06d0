"""The panels of what wins: operations alone, in pairs, and as the run went on."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

from kdzero_gp.analysis.statistics import operation_success, pair_success, success_over_time
from kdzero_gp.report.panels.pieces import Cell, details, label, nothing, real, section, svg, table, text
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
_NOTE = (
    "Evolution copies what wins, so a share tells what survived here; it is no experiment that varies one operation "
    "alone."
)

Row = dict[str, Any]


def operations_panel(snapshot: Snapshot) -> str:
    """Which knowledge, transforms, distances and weights win, each role by itself."""
    caption = (
        "Filled: the share of the best tenth of all distillers that use an operation. Line: the share of all "
        f"distillers. The factor is the first by the second. {text(_NOTE)}"
    )
    rows = operation_success(snapshot.births, snapshot.evaluations)
    if not rows:
        return section("operations", "What wins", caption, nothing("No distiller has a fitness yet."))
    cards = "".join(
        _card(TITLES[role], [(row["name"], row) for row in _extremes([r for r in rows if r["role"] == role])], role)
        for role in ROLES
    )
    headers = ["operation", "kind", *_HEADERS]
    body = [[Cell(f"<code>{text(r['name'])}</code>"), Cell(text(r["role"])), *_cells(r)] for r in rows]
    whole = details(f"All {len(rows)} operations", table(headers, body, "All operations", range(2, len(headers))))
    return section("operations", "What wins", caption, f'<div class="cards">{cards}</div>{whole}')


def pairs_panel(snapshot: Snapshot) -> str:
    """Which pairs of operations win."""
    caption = "As above, for two operations in the same term of a distiller: the pairs that gained most."
    rows = pair_success(snapshot.births, snapshot.evaluations)
    if not rows:
        return section("pairs", "What wins together", caption, nothing("No distiller has a fitness yet."))
    cards = ""
    for kind in PAIR_KINDS:
        gaining = [row for row in _by_gain([row for row in rows if row["kind"] == kind]) if row["lift"] > 1][:PAIRS]
        cards += _card(TITLES[kind], [(f"{row['first']} + {row['second']}", row) for row in gaining], kind.split()[0])
    shown = sorted(rows, key=lambda r: (-r["share_best"], -r["distillers"], r["first"], r["second"]))[:PAIR_TABLE_ROWS]
    headers = ["first", "second", "kind", *_HEADERS]
    body = [
        [Cell(f"<code>{text(r['first'])}</code>"), Cell(f"<code>{text(r['second'])}</code>"), Cell(text(r["kind"])),
         *_cells(r)]
        for r in shown
    ]  # fmt: skip
    title = f"{len(shown)} of {len(rows):,} pairs, by their share of the best"
    whole = details(title, table(headers, body, "Pairs of operations", range(3, len(headers))))
    return section("pairs", "What wins together", caption, f'<div class="cards three">{cards}</div>{whole}')


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


def _card(title: str, rows: Sequence[tuple[str, Row]], role: str) -> str:
    if not rows:
        return ""
    items = "".join(
        f'<li><span class="name">{text(name)}</span><span class="bar {role}">'
        f'<i style="width:{100 * row["share_best"]:.1f}%"></i><b style="left:{100 * row["share"]:.1f}%"></b></span>'
        f'<span class="factor">×{row["lift"]:.1f}</span><span class="spoken">'
        f"{100 * row['share_best']:.0f} % of the best, {100 * row['share']:.0f} % of all</span></li>"
        for name, row in rows
    )
    return f'<div class="card"><h3>{text(title)}</h3><ul class="bars">{items}</ul></div>'


# --- over time ----------------------------------------------------------------------------------------------------

CELL, NAMES, MOST_RADIUS = 22.0, 126.0, 10.0
MOST_ROWS = 12
# Mean ranks crowd around the middle: the colours change here.
RANKS = (0.3, 0.43, 0.57, 0.7)


def time_panel(snapshot: Snapshot) -> str:
    """How much each operation was used, and how well it did, as the run went on."""
    caption = (
        "Each column is a tenth of the run. A dot’s area is the share of births that use the operation; its colour is "
        "their mean rank by fitness among all distillers of the run."
    )
    rows = success_over_time(snapshot.births, snapshot.evaluations)
    if not rows:
        return section("time", "Success over time", caption, nothing("No distiller has a fitness yet."))
    legend = "".join(
        f'<li><i class="swatch dot {kind}"></i>{words}</li>'
        for kind, words in (
            ("s0", f"best {100 * RANKS[0]:.0f} %"),
            ("s1", ""),
            ("s2", "middle"),
            ("s3", ""),
            ("s4", f"worst {100 - 100 * RANKS[-1]:.0f} %"),
        )
    )
    cards = "".join(_time_card(role, [row for row in rows if row["role"] == role]) for role in ROLES)
    return section(
        "time", "Success over time", caption, f'<ul class="legend joined">{legend}</ul><div class="cards">{cards}</div>'
    )


def _time_card(role: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    order = sorted(by_name, key=lambda name: (-sum(row["share"] for row in by_name[name]), name))
    shown = order[:MOST_ROWS]
    left_out = f'<p class="small">and {len(order) - len(shown)} less used</p>' if len(order) > len(shown) else ""
    return (
        f'<div class="card"><h3>{TITLES[role]}</h3>{_dots(TITLES[role], [by_name[n] for n in shown])}{left_out}</div>'
    )


def _dots(title: str, lines: Sequence[Sequence[Row]]) -> str:
    columns = len(lines[0])
    width, height = NAMES + CELL * columns, CELL * len(lines) + 22
    body = []
    for index, line in enumerate(lines):
        y = CELL * (index + 0.5)
        body.append(f'<path class="grid" d="M{NAMES},{y:.1f}H{width:g}"/>')
        body.append(label(NAMES - 8, y + 4, line[0]["name"], "code", "end"))
        for row in line:
            if row["births"]:
                body.append(_dot(NAMES + CELL * (row["bin"] + 0.5), y, row))
    first, last = lines[0][0]["first"], lines[0][-1]["last"]
    body.append(label(NAMES, height - 4, f"birth {first:,}", "tick"))
    body.append(label(width, height - 4, f"{last:,}", "tick", "end"))
    return svg(width, height, f"{title}: use and success over time", "".join(body))


def _dot(x: float, y: float, row: Row) -> str:
    radius = max(1.2, MOST_RADIUS * math.sqrt(row["share"]))
    colour = bisect.bisect(RANKS, row["percentile"])
    words = (
        f"{row['name']}, births {row['first']:,}–{row['last']:,}: {row['births']:,} births "
        f"({100 * row['share']:.0f} %), mean rank {100 * row['percentile']:.0f} %"
    )
    return f'<circle class="s{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{text(words)}</title></circle>'
