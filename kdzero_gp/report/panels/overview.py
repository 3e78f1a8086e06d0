"""The head of the page: what came out, in one sentence, some figures and the winner's picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kdzero_gp.analysis.markup import Cell
from kdzero_gp.analysis.names import names_of
from kdzero_gp.analysis.results import confirmed_cells, confirmed_headers
from kdzero_gp.analysis.statistics import candidate_flow
from kdzero_gp.common import UNKNOWN, duration
from kdzero_gp.families import Measure
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.report.panels.trees import distiller
from kdzero_gp.search.race import TEST, RaceResult, best_of
from kdzero_gp.training.verdict import Verdict


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
        "tiles": _tiles(snapshot, next((r for r in snapshot.fresh if r.entry.kind == "evolved"), evolved)),
        "winner": distiller(snapshot, snapshot.winner, 1) if snapshot.winner else None,
        "verdict": None if snapshot.verdict is None else _sentences(snapshot.verdict.lines),
        "exported": _exported(snapshot.verdict),
        **_confirmed(snapshot),
    }  # fmt: skip


def _sentences(lines: Sequence[str]) -> list[str]:
    return [lines[0][0].upper() + lines[0][1:], *lines[1:]]


def _exported(verdict: Verdict | None) -> str:
    """The published method that the run exports in place of the distiller that the page shows; '' where it does not."""
    return "" if verdict is None or verdict.winner == verdict.evolved else verdict.winner


def _confirmed(snapshot: Snapshot) -> dict[str, Any]:
    """The finalists on the fresh seeds, as a small table."""
    family, names = snapshot.settings.family, names_of(snapshot.raced, snapshot.fresh)
    seeds = max((result.seeds for result in snapshot.fresh), default=0)
    rows = [
        [
            Cell(names.get(result.entry.name, result.entry.title)),
            *(Cell(text, number) for text, number in confirmed_cells(result, family)),
        ]
        for result in snapshot.fresh
    ]
    return {"confirmed": rows, "headers": (f"{seeds} fresh seeds", *confirmed_headers(family))}


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
