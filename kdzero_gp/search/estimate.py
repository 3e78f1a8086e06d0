"""How long a run will take, from what its first trainings took: told before a long start and beside every bar."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdzero_gp.common import duration
from kdzero_gp.search.pruning import CHECKED
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database

STAGES = ("published methods", "births", "heat", "race", "pruning", "confirmation")
# A candidate's gradients and first steps, in units of a proxy training (digits: 48 + 28 + 87 of 1,171 ms).
PROBE_SHARE = 0.14
# How much more a step of the whole student costs than one of its last stage on kept maps (experiments/proxy_choice).
WHOLE_STUDENT = 4.0
# Whom the fresh seeds compare: the best evolved distiller, pruned and as it was, the best published method, kd,
# cross-entropy alone.
FINALISTS = 5


@dataclass(frozen=True)
class Estimate:
    """Seconds of the stages that are not done yet, in their order."""

    stages: Mapping[str, float]

    def after(self, stage: str) -> float:
        """The seconds of all that comes behind a stage."""
        later = STAGES[STAGES.index(stage) + 1 :] if stage in STAGES else STAGES
        return sum(self.stages[name] for name in later)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.stages.items() if seconds)
        return f"about {duration(sum(self.stages.values()))} from here: {parts}"


def estimate(database: Database, settings: RunSettings, methods: int, workers: int) -> Estimate:
    """The estimate with what is known by now: the race is estimated by proxies until there is one. ``methods``: how
    many published ones fit the pair."""
    plan = settings.plan
    proxy = _median(database, "zoo") or _median(database, "baseline")
    share = plan.surrogate_share if "surrogate" in settings.screens and not settings.search.objectives else 1.0
    births = settings.search.births
    longer = plan.race.epochs / plan.proxy.epochs * (WHOLE_STUDENT if plan.proxy_trains == "last-stage" else 1.0)
    race = _median(database, "race") or longer * proxy
    raced = plan.race_top + 1 + (methods if plan.race_zoo is None else min(methods, plan.race_zoo + 1))
    seconds = {
        "published methods": methods * len(plan.zoo_factors) * proxy,
        "births": births * (share + PROBE_SHARE) * proxy,
        "heat": (plan.in_heat + (methods if plan.zoo_heat else 0)) * race,
        "race": raced * plan.race_seeds * race,
        "pruning": (plan.prune + 1 + 2 * CHECKED) * plan.race_seeds * race if plan.prune else 0.0,
        "confirmation": FINALISTS * plan.fresh_seeds * race,
    }
    return Estimate({name: value / workers for name, value in seconds.items()})


def _median(database: Database, kind: str) -> float:
    costs = [seconds for seconds, _ in database.costs(kind) if seconds > 0]
    return statistics.median(costs) if costs else 0.0


def megabytes(folder: Path) -> float:
    """What the files of a run take, in 10⁶ bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
