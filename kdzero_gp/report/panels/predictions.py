"""The panel of what networks predict: pictures of a few validation images, and a table of classes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdzero_gp import tasks
from kdzero_gp.analysis.markup import Cell
from kdzero_gp.engine.predictions import Predictions
from kdzero_gp.errors import KdzeroError
from kdzero_gp.families import Measure
from kdzero_gp.report.drawn import colour, rows
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.training.folder import SETTINGS

# Of a class, by the names of networks: mean and half-width of the interval.
ByClass = Mapping[str, Mapping[int, tuple[float, float]]]


def predictions_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The students of ``--final``, where the run has them, and those of the race."""
    measure = snapshot.settings.family.of_class
    groups = [
        group("final", "Students of --final", snapshot.final, _measured(snapshot.final, measure), measure),
        group("race", "Students of the race", snapshot.pictures, snapshot.by_class, measure, snapshot.classes),
    ]
    if snapshot.settings.plan.crop:
        groups[1]["note"] = f"Students see windows of {snapshot.settings.plan.crop} pixels, the teacher whole images."
    return {"groups": [found for found in groups if found["rows"] or found["table"]]}


def training_panel(folder: Path, predictions: Predictions) -> dict[str, Any]:
    """The networks of one training, or of a comparison's first seed."""
    try:
        asked = json.loads((folder / SETTINGS).read_text("utf-8"))["settings"]
        measure = tasks.get(asked["task"]).family.of_class
    except (OSError, ValueError, KeyError, TypeError, KdzeroError):  # the task of somebody's own is not at hand
        measure = None
    shown = group("training", "Networks", predictions, _measured(predictions, measure), measure)
    return {"groups": [shown]}


def group(
    name: str, title: str, predictions: Predictions | None, by_class: ByClass, measure: Measure | None,
    classes: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Pictures and the table of some networks; either may be empty."""
    classes = classes or (predictions.classes if predictions else ())
    drawn = rows(predictions, name, classes) if predictions else []
    numbers = sorted({number for values in by_class.values() for number in values})
    return {
        "title": title, "note": "", "heading": measure.heading if measure else "",
        "columns": ("image", "truth", *predictions.said) if predictions else (), "rows": drawn,
        "legend": [(called, colour(number)) for number, called in enumerate(classes)] if drawn else [],
        "headers": ("class", *by_class),
        "table": [_row(number, classes, by_class, measure) for number in numbers] if measure else [],
    }  # fmt: skip


def _row(number: int, classes: Sequence[str], by_class: ByClass, measure: Measure) -> list[Cell]:
    name = classes[number] if number < len(classes) else str(number)
    values = [of_network.get(number, (math.nan, math.nan)) for of_network in by_class.values()]
    return [Cell(name), *(Cell(measure.text(*value), value[0]) for value in values)]


def _measured(predictions: Predictions | None, measure: Measure | None) -> ByClass:
    """A table of one training each."""
    if predictions is None or measure is None:
        return {}
    return {name: of_class(values, measure) for name, values in predictions.measured.items() if values}


def of_class(measures: Mapping[str, float], measure: Measure) -> dict[int, tuple[float, float]]:
    """The numbers of classes among some measures."""
    start = f"{measure.name}_"
    found = {name.removeprefix(start): value for name, value in measures.items() if name.startswith(start)}
    return {int(number): (value, math.nan) for number, value in found.items() if number.isdigit()}
