"""The report of a run as one html file that needs nothing else: style, script and pictures stand in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdzero_gp.analysis.markup import tag
from kdzero_gp.common import real
from kdzero_gp.engine.predictions import FILE, Predictions
from kdzero_gp.files import atomic_write
from kdzero_gp.report.panels import overview, panels_of, read_snapshot
from kdzero_gp.report.panels.predictions import training_panel
from kdzero_gp.report.several import several
from kdzero_gp.search.storage import DATABASE


def write_report(folders: Path | Sequence[Path], output: Path) -> None:
    """Write the report of the run or training in a folder, finished or not, or of several runs of one pair, to
    ``output``, which appears whole or not at all.

    Raises ``RunError`` where there is no run or the file cannot be written, ``SettingError`` for runs of other pairs.
    """
    folders = [folders] if isinstance(folders, Path) else folders
    page = report(folders[0]) if len(folders) == 1 else report_of_several(folders)
    atomic_write(output, page, "free space or choose another place with -o")


def report(folder: Path) -> str:
    """The page as text, of a run, or of a training or a comparison that kept what its networks predict. Whatever comes
    from a run is escaped by the templates."""
    templates = _environment()

    def rendered(name: str, data: dict[str, Any]) -> Markup:
        return Markup(templates.get_template(f"{name}.html").render(data))

    alone = None if (folder / DATABASE).exists() else Predictions.load(folder / FILE)
    if alone is not None:
        panels = [("predictions", "Predictions", rendered("predictions", training_panel(folder, alone)))]
        head = tag("h1", f"What {folder.resolve().name} learnt")
        return str(rendered("page", {"folder": folder, "overview": head, "panels": panels, **_assets()}))
    snapshot = read_snapshot(folder)
    panels = [(name, title, rendered(name, panel(snapshot))) for name, title, panel in panels_of(snapshot)]
    head = rendered("overview", overview(snapshot))
    return str(rendered("page", {"folder": snapshot.folder, "overview": head, "panels": panels, **_assets()}))


def report_of_several(folders: Sequence[Path]) -> str:
    """The page of several runs as text."""
    return str(_environment().get_template("several.html").render(several(folders) | _assets()))


def _assets() -> dict[str, Markup]:
    return {"style": _asset("page.css"), "script": _asset("page.js")}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kdzero_gp.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "real": real,
        "thousands": "{:,}".format,
        # what has no number comes last in either direction
        "sortable": lambda value: "" if math.isnan(value) else f"{value:.9g}",
    }
    return environment


def _asset(name: str) -> Markup:
    return Markup((resources.files("kdzero_gp.report") / "assets" / name).read_text(encoding="utf-8"))
