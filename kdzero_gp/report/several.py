"""The page of several runs: what each found, and the best of all in one ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdzero_gp.analysis.markup import Cell
from kdzero_gp.analysis.names import ingredients
from kdzero_gp.analysis.several import Found, Runs
from kdzero_gp.common import UNKNOWN, real
from kdzero_gp.families import Measure
from kdzero_gp.report.panels.snapshot import TOP, read_snapshot
from kdzero_gp.report.panels.trees import distiller
from kdzero_gp.search.race import Competitor

# So many are drawn.
DRAWN = 5


def several(folders: Sequence[Path]) -> dict[str, Any]:
    """The data of the page. Raises ``KdzeroError`` where they are no runs of one pair."""
    runs = Runs(folders)
    found, deciding = runs.top(TOP), runs.family.deciding
    snapshots = {run.folder: read_snapshot(run.folder) for run in runs.runs}
    settings = runs.runs[0].settings
    drawn = []
    for one in found[:DRAWN]:
        best = one.distiller
        entry = Competitor(best.digest, "evolved", str(best.expression), best.magnitudes, best.fitness)
        drawn.append(distiller(snapshots[best.folder], entry, one.rank))
    return {
        "settings": settings, "count": len(runs.runs), "deciding": deciding, "notes": runs.notes, "drawn": drawn,
        "run_headers": ("run", "seed", "births", "trained", "best fitness", f"race {deciding.heading}", "fresh seeds"),
        "runs": [_run(row, deciding) for row in runs.rows()],
        "headers": ("rank", "distiller", f"race {deciding.heading}", "proxy fitness", "found as"),
        "ranking": [_found(one, deciding) for one in found],
    }  # fmt: skip


def _run(row: dict[str, Any], deciding: Measure) -> list[Cell]:
    best, counts = row["best"], row["counts"]
    fitness = best.fitness if best is not None and best.fitness is not None else math.nan
    state = "" if row["finished"] else " (not finished)"
    return [
        Cell(f"{row['folder'].name}{state}"), Cell(row["seed"], row["seed"]),
        Cell(f"{counts['births']:,}", counts["births"]), Cell(f"{counts['trained']:,}", counts["trained"]),
        Cell(real(fitness), fitness), _raced(best, deciding),
        Cell(row["verdict"][0] if row["verdict"] else "no fresh seeds yet"),
    ]  # fmt: skip


def _found(one: Found, deciding: Measure) -> list[Cell]:
    best = one.distiller
    fitness = math.nan if best.fitness is None else best.fitness
    return [
        Cell(one.rank, one.rank), Cell(ingredients(str(best.expression))), _raced(best, deciding),
        Cell(real(fitness), fitness), Cell(", ".join(one.places)),
    ]  # fmt: skip


def _raced(best: Any, deciding: Measure) -> Cell:
    if best is None or best.standing is None:
        return Cell(UNKNOWN, math.nan)
    value = best.standing.value(deciding.name)
    return Cell(deciding.text(*value), value[0])
