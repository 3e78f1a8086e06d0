"""The head of the page: what came out, in one sentence, some figures and the winner's picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kdzero_gp.analysis.markup import Cell
from kdzero_gp.analysis.names import names_of
from kdzero_gp.analysis.statistics import candidate_flow
from kdzero_gp.common import UNKNOWN, duration
from kdzero_gp.families import Measure
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.report.panels.trees import distiller
from kdzero_gp.search.race import TEST, RaceResult, best_of


def overview(snapshot: Snapshot) -> dict[str, Any]:
    """Title, verdict (never more than the intervals of the race allow), figures and winner."""
    search, raced, deciding = snapshot.settings.search, snapshot.raced, snapshot.settings.family.deciding
    evolved = best_of(raced, "evolved")
    return {
        "snapshot": snapshot, "settings": snapshot.settings, "total": search.births,
        "evolved": evolved, "raced": sum(result.entry.kind == "evolved" for result in raced),
        "published": best_of(raced, "zoo"),
        "deciding": deciding, "to_kd": _to_kd(evolved, deciding) if evolved else None,
        "pruning": snapshot.pruning.lines(deciding) if snapshot.pruning else (),
        "tiles": _tiles(snapshot, evolved),
        "winner": distiller(snapshot, snapshot.winner, 1) if snapshot.winner else None,
        "verdict": None if snapshot.verdict is None else _sentences(snapshot.verdict.lines),
        **_confirmed(snapshot),
    }  # fmt: skip


def _sentences(lines: Sequence[str]) -> list[str]:
    return [lines[0][0].upper() + lines[0][1:], *lines[1:]]


def _confirmed(snapshot: Snapshot) -> dict[str, Any]:
    """The finalists on the fresh seeds, as a small table."""
    family, names = snapshot.settings.family, names_of(snapshot.raced, snapshot.fresh)
    deciding = family.deciding
    seeds = max((result.seeds for result in snapshot.fresh), default=0)
    parts = {"validation": deciding.name, "test": TEST + deciding.name}
    rows = [
        [
            Cell(names.get(result.entry.name, result.entry.title)),
            *(Cell(deciding.text(*result.value(name)), result.value(name)[0]) for name in parts.values()),
            Cell("" if result.entry.name == "kd" else deciding.difference(*result.difference), result.difference[0]),
        ]
        for result in snapshot.fresh
    ]
    to_kd = ", ".join(filter(None, ("to kd", deciding.difference_unit)))
    return {"confirmed": rows, "headers": (f"{seeds} fresh seeds, {deciding.heading}", *parts, to_kd)}


def _to_kd(evolved: RaceResult, deciding: Measure) -> str | None:
    difference, half = evolved.difference
    if math.isnan(difference):
        return None
    words = f"{deciding.difference(difference, half)} {deciding.difference_unit}".rstrip()
    if math.isnan(half):
        return words + "."
    if abs(difference) <= half:
        return words + ", which chance may explain."
    return words + ", more than chance explains."


def _tiles(snapshot: Snapshot, evolved: RaceResult | None) -> list[tuple[str, str]]:
    flow = candidate_flow(snapshot.births, snapshot.evaluations)
    deciding = snapshot.settings.family.deciding
    total = sum(time for costs in snapshot.costs.values() for time, _ in costs)
    means = {
        "evolved, validation": evolved.value(deciding.name)[0] if evolved else math.nan,
        "evolved, test": evolved.value(TEST + deciding.name)[0] if evolved else math.nan,
        "teacher, test": snapshot.bench.get(f"teacher_{TEST}{deciding.name}", math.nan),
    }
    return [
        *((f"{name} {deciding.label}", deciding.with_unit(mean)) for name, mean in means.items()),
        ("births", f"{flow['births']:,}"),
        ("trained", f"{flow['trained']:,}"),
        ("trainings, summed over workers", duration(total) if total else UNKNOWN),
    ]
