"""The head of the page: what came out, in one sentence, some figures and the winner's picture."""

from __future__ import annotations

import math
from typing import Any

from kdzero_gp.analysis.statistics import candidate_flow
from kdzero_gp.common import UNKNOWN, duration, percent, points
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.report.panels.trees import distiller
from kdzero_gp.search.race import RaceResult


def overview(snapshot: Snapshot) -> dict[str, Any]:
    """Title, verdict (never more than the intervals of the race allow), figures and winner."""
    search, raced = snapshot.settings.search, snapshot.raced
    evolved = next((result for result in raced if result.entry.kind == "evolved"), None)
    return {
        "snapshot": snapshot, "settings": snapshot.settings, "total": search.generations * search.population,
        "evolved": evolved, "raced": sum(result.entry.kind == "evolved" for result in raced),
        "published": next((result for result in raced if result.entry.kind == "zoo"), None),
        "to_kd": _to_kd(evolved) if evolved else None, "tiles": _tiles(snapshot, evolved),
        "winner": distiller(snapshot, snapshot.winner, 1) if snapshot.winner else None,
    }  # fmt: skip


def _to_kd(evolved: RaceResult) -> str | None:
    difference, half = evolved.difference_to_kd, evolved.difference_interval
    if math.isnan(difference):
        return None
    words = f"{points(difference, half)} points"
    if math.isnan(half):
        return words + "."
    if abs(difference) <= half:
        return words + ", which chance may explain."
    return words + ", more than chance explains."


def _tiles(snapshot: Snapshot, evolved: RaceResult | None) -> list[tuple[str, str]]:
    flow = candidate_flow(snapshot.births, snapshot.evaluations)
    seconds = [time for time, _ in snapshot.costs["evaluation"]]
    total = sum(time for costs in snapshot.costs.values() for time, _ in costs)
    shares = {
        "validation accuracy": evolved.accuracy if evolved else math.nan,
        "test accuracy": evolved.test_accuracy if evolved else math.nan,
        "teacher, test accuracy": snapshot.bench.get("teacher_test_accuracy", math.nan),
    }
    return [
        *((name, UNKNOWN if math.isnan(share) else f"{percent(share)} %") for name, share in shares.items()),
        ("births", f"{flow['births']:,}"),
        ("evaluated", f"{flow['evaluated']:,}"),
        ("a candidate, median", duration(sorted(seconds)[len(seconds) // 2]) if seconds else UNKNOWN),
        ("all trainings", duration(total) if total else UNKNOWN),
    ]
