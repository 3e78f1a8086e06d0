"""One entry of a run as a file."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import kdzero_gp.compiler as language
from kdzero_gp.common import ALONE_TEXT
from kdzero_gp.errors import RunError
from kdzero_gp.search.confirmation import verdict
from kdzero_gp.search.race import Competitor
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database


def export_entry(folder: Path, database: Database, entry: Competitor, path: Path) -> None:
    """Write one entry of a run as a Python file with its provenance."""
    settings = RunSettings.from_dict(database.fact("settings"))
    bench = database.fact("bench")
    if bench is None:
        raise RunError(f"{folder} has nothing to export yet; resume it with: kdzero-gp resume {folder}")
    values = [v.metrics for v in database.measurements("race") if v.name == entry.name and not v.reason]
    facts: dict[str, Any] = {
        "kind": entry.kind,
        "pair": f"teacher {settings.teacher}, student {settings.student}, task {settings.task}",
        "fitness": f"{entry.fitness:.6g} ({ALONE_TEXT}: 1)" if entry.fitness is not None else "none",
        "run": f"{folder.name}, seed {settings.search.seed}, space {settings.space}",
        "versions": ", ".join(f"{k} {v}" for k, v in database.fact("versions").items()),
    }
    if values:
        measure = settings.family.deciding
        mean = statistics.fmean(v[measure.name] for v in values)
        facts["race"] = f"mean validation {measure.heading} {measure.text(mean)}, {len(values)} seeds"
    found = verdict(database, settings)
    if found is not None and found.evolved == entry.name:
        facts["confirmed"] = ", ".join(found.lines[1:])
    language.export(
        path,
        entry.expression,
        bench["student_shapes"],
        bench["teacher_shapes"],
        entry.magnitudes or None,
        facts,
        settings.family.knowledge,
    )
