"""Reports: what a run found, as numbers, as one page, and live in the terminal."""

from kdzero_gp.report.facts import (
    candidate_flow,
    fitness_over_generations,
    genealogy,
    operation_success,
    pair_success,
    success_over_time,
)
from kdzero_gp.report.page import write_report
from kdzero_gp.report.watch import watch

__all__ = [
    "candidate_flow",
    "fitness_over_generations",
    "genealogy",
    "operation_success",
    "pair_success",
    "success_over_time",
    "watch",
    "write_report",
]
