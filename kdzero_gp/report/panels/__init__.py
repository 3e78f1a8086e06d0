"""The panels of the report: each takes a snapshot of a run and gives the data of its template."""

from collections.abc import Callable
from typing import Any

from kdzero_gp.engine.predictions import draws
from kdzero_gp.report.panels.cost import cost_panel
from kdzero_gp.report.panels.fitness import fitness_panel
from kdzero_gp.report.panels.flow import flow_panel
from kdzero_gp.report.panels.genealogy import genealogy_panel
from kdzero_gp.report.panels.operations import operations_panel, pairs_panel, time_panel
from kdzero_gp.report.panels.overview import overview
from kdzero_gp.report.panels.predictions import predictions_panel
from kdzero_gp.report.panels.race import race_panel
from kdzero_gp.report.panels.reproduction import reproduction_panel
from kdzero_gp.report.panels.size import size_panel
from kdzero_gp.report.panels.snapshot import Snapshot, read_snapshot
from kdzero_gp.report.panels.trees import trees_panel

# In the order of the page: name of the section, title in the contents, function.
PANELS = (
    ("race", "Race", race_panel),
    ("size", "Size", size_panel),
    ("predictions", "Predictions", predictions_panel),
    ("fitness", "Fitness", fitness_panel),
    ("flow", "Candidates", flow_panel),
    ("operations", "Operations", operations_panel),
    ("pairs", "Pairs", pairs_panel),
    ("time", "Over time", time_panel),
    ("genealogy", "Genealogy", genealogy_panel),
    ("trees", "Runners-up", trees_panel),
    ("cost", "Cost", cost_panel),
    ("reproduction", "Reproduction", reproduction_panel),
)


def panels_of(snapshot: Snapshot) -> list[tuple[str, str, Callable[[Snapshot], dict[str, Any]]]]:
    """Those that a run has something for: pictures are of families that draw."""
    family = snapshot.settings.family
    return [panel for panel in PANELS if panel[0] != "predictions" or family.of_class or draws(family)]


__all__ = ["PANELS", "Snapshot", "overview", "panels_of", "read_snapshot"]
