"""The panel that shows where the candidates went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kdzero_gp.analysis.markup import chart, label, tag
from kdzero_gp.analysis.statistics import candidate_flow
from kdzero_gp.draw.style import DETAIL_SIZE
from kdzero_gp.report.panels.snapshot import WIDTHS, Snapshot

TOP, ROW, GAP, BAR = 30.0, 18.0, 10.0, 12.0
# The height of all births together, in pixels.
TOTAL = 240.0
# Reasons beyond these are summed up.
REASONS = 6
_REJECTED = "rejected: "


@dataclass(frozen=True)
class FlowOutcome:
    """What became of some births."""

    name: str
    count: int
    kind: str


def outcomes(flow: dict[str, int]) -> list[FlowOutcome]:
    """What became of the births, the good first; rare reasons of rejection are summed up."""
    reasons = [(n.removeprefix(_REJECTED), count) for n, count in flow.items() if n.startswith(_REJECTED)]
    kept, rest = reasons[:REASONS], reasons[REASONS:]
    found = [
        FlowOutcome("trained", flow["trained"], "good"),
        *(FlowOutcome(name, flow[name], "plain") for name in ("equivalent", "predicted", "duplicates")),
    ]
    found += [FlowOutcome(name, count, "bad") for name, count in kept]
    if rest:
        found.append(FlowOutcome(f"{len(rest)} other reasons", sum(count for _, count in rest), "bad"))
    found.append(FlowOutcome("waiting", flow["waiting"], "plain"))
    return [outcome for outcome in found if outcome.count]


def flow_panel(snapshot: Snapshot) -> dict[str, Any]:
    """Births on the left, what became of them on the right."""
    raced = {s.entry.name for s in snapshot.raced if s.entry.kind == "evolved"}
    flow = candidate_flow(snapshot.births, snapshot.evaluations, raced)
    return {"charts": [flow_chart(flow, width) for width in WIDTHS] if flow["births"] else []}


def flow_chart(flow: dict[str, int], width: float) -> Markup:
    """The flow in one width: ribbons as high as the number of births in them."""
    births, parts = flow["births"], outcomes(flow)
    column, last = (0.42 * width, 0.8 * width) if width > 500 else (92.0, 0.76 * width)
    body = [label(0, TOP - 12, f"{births:,} births", "strong"), _bar(0, TOP, TOTAL, "plain")]
    left = right = TOP
    for outcome in parts:
        height = TOTAL * outcome.count / births
        shown = max(1.5, height)
        body.append(_ribbon((BAR, left, height), (column, right, shown), outcome.kind))
        body.append(_bar(column, right, shown, outcome.kind))
        racing = outcome.name == "trained" and flow["raced"]
        room = last - column - 40 if racing else width - column - BAR - 8
        body.append(_outcome_label(column + BAR + 8, right + max(shown, ROW) / 2 + 4, outcome, births, room))
        if racing:
            body += _raced(flow["raced"], births, (column + BAR, right), last)
        left, right = left + height, right + max(shown, ROW) + GAP
    title = f"{births:,} births: " + ", ".join(f"{part.count:,} {part.name}" for part in parts)
    return chart(width, max(right, TOP + TOTAL + 4), title, body)


def _raced(count: int, births: int, start: tuple[float, float], x: float) -> list[Markup]:
    shown = max(1.5, TOTAL * count / births)
    ribbon = _ribbon((start[0], start[1], shown), (x, start[1], shown), "best")
    words = label(x + BAR + 8, start[1] + max(shown, ROW) / 2 + 4, f"{count:,} raced", "halo")
    return [ribbon, _bar(x, start[1], shown, "best"), words]


def _bar(x: float, y: float, height: float, kind: str) -> Markup:
    return tag("rect", kind=f"flow {kind}", x=f"{x:g}", y=f"{y:.1f}", width=BAR, height=f"{height:.1f}")


def _ribbon(start: tuple[float, float, float], end: tuple[float, float, float], kind: str) -> Markup:
    (x, y, height), (to_x, to_y, to_height) = start, end
    middle = (x + to_x) / 2
    outline = (
        f"M{x:.1f},{y:.1f}C{middle:.1f},{y:.1f} {middle:.1f},{to_y:.1f} "
        f"{to_x:.1f},{to_y:.1f}V{to_y + to_height:.1f}C{middle:.1f},{to_y + to_height:.1f} "
        f"{middle:.1f},{y + height:.1f} {x:.1f},{y + height:.1f}Z"
    )
    return tag("path", kind=f"ribbon {kind}", d=outline)


def _outcome_label(x: float, y: float, outcome: FlowOutcome, births: int, room: float) -> Markup:
    share = 100 * outcome.count / births
    words = f"{outcome.count:,} {outcome.name}" + (f" ({share:.1f} %)" if room > 260 else "")
    most = int(room / (0.62 * DETAIL_SIZE * 1.2))
    short = words if len(words) <= most else words[: most - 1] + "…"
    return tag("g", tag("title", words), label(x, y, short, "halo"))
