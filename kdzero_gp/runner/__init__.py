"""Runs: one search from its settings to the exported winner."""

from kdzero_gp.progress import Progress
from kdzero_gp.runner.judging import front, screen_rows
from kdzero_gp.runner.race import CROSS_ENTROPY, Entry, Standing, entries, standings, tuned_zoo
from kdzero_gp.runner.run import Machine, Result, export_entry, resume, start
from kdzero_gp.runner.settings import PLAN_OPTIONS, PLANS, WEIGHT_OPTIONS, Plan, RunSettings, plan_for

__all__ = [
    "CROSS_ENTROPY",
    "PLANS",
    "PLAN_OPTIONS",
    "WEIGHT_OPTIONS",
    "Entry",
    "Machine",
    "Plan",
    "Progress",
    "Result",
    "RunSettings",
    "Standing",
    "entries",
    "export_entry",
    "front",
    "plan_for",
    "resume",
    "screen_rows",
    "standings",
    "start",
    "tuned_zoo",
]
