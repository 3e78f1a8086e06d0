"""What a run is decided by, and each task's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import SettingError
from kdzero_gp.evolution import SPACES, SearchSettings
from kdzero_gp.proxy.screens import SCREENS
from kdzero_gp.tasks.plan import DIGITS, PROXY_TRAINS, SearchPlan

MAGNITUDE_MODES = ("relative", "absolute")
# What several objectives can be: the metrics of fitness, milliseconds of a step, MiB that the loss keeps for a batch.
OBJECTIVES = ("cross_entropy", "calibrated", "sharpness_gap", "cka_gap", "step_time", "memory")

# What of a plan has an option of its own name on the command line.
PLAN_OPTIONS = (
    "images", "validation_images", "race_top", "race_seeds", "proxy_trains", "surrogate_share", "short_bound",
    "loss_memory",
)  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """Everything that a run's results follow from, apart from the machine. Stored with the run."""

    task: str = "digits"
    data: str | None = None
    teacher: str = ""
    teacher_weights: str | None = None
    teacher_taps: dict[str, str] = field(default_factory=dict)
    student: str = ""
    student_taps: dict[str, str] = field(default_factory=dict)
    knowledge: tuple[str, ...] = ("logits", "emb", "feat")
    space: str = "open"
    magnitude: str = "relative"
    seed_zoo: bool = True
    screens: tuple[str, ...] = SCREENS
    search: SearchSettings = field(default_factory=SearchSettings)
    plan: SearchPlan = DIGITS

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise SettingError(f"--space must be one of {', '.join(SPACES)}, got {self.space!r}")
        if self.magnitude not in MAGNITUDE_MODES:
            raise SettingError(f"--magnitude must be one of {', '.join(MAGNITUDE_MODES)}, got {self.magnitude!r}")
        unknown = [name for name in self.screens if name not in SCREENS]
        if unknown:
            raise SettingError(f"there is no screen {unknown[0]!r}; --screens takes {', '.join(SCREENS)}, all or none")
        unknown = [name for name in self.search.objectives if name not in OBJECTIVES]
        if unknown:
            raise SettingError(f"there is no objective {unknown[0]!r}; --objectives takes {', '.join(OBJECTIVES)}")
        for name in ("race_seeds", "race_top"):
            if getattr(self.plan, name) < 1:
                raise SettingError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self.plan, name)}")
        if not 0 < self.plan.surrogate_share <= 1:
            share = self.plan.surrogate_share
            raise SettingError(f"--surrogate-share must lie above 0 and not above 1, got {share:g}")
        if not self.plan.short_bound > 0:
            raise SettingError(f"--short-bound must be more than 0, got {self.plan.short_bound:g}")
        if self.plan.proxy_trains not in PROXY_TRAINS:
            names = ", ".join(PROXY_TRAINS)
            raise SettingError(f"--proxy-trains must be one of {names}, got {self.plan.proxy_trains!r}")
        if not self.plan.loss_memory > 0:
            raise SettingError(f"--loss-memory must be more than 0 MiB, got {self.plan.loss_memory:g}")
        for name in ("images", "validation_images"):
            value = getattr(self.plan, name)
            if value is not None and value < 64:
                raise SettingError(f"--{name.replace('_', '-')} must be at least 64, got {value}")

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RunSettings:
        """Read back what ``as_dict`` gave."""
        values = dict(stored)
        search = dict(values["search"])
        values["search"] = SearchSettings(**search | {"objectives": tuple(search["objectives"])})
        values["screens"] = tuple(values["screens"])
        values["knowledge"] = tuple(values["knowledge"])
        plan = dict(values["plan"])
        for name in ("warm", "proxy", "race", "teacher_recipe"):
            plan[name] = Recipe.from_dict(plan[name]) if plan[name] is not None else None
        plan["zoo_factors"] = tuple(plan["zoo_factors"])
        plan["weights"] = dict(plan["weights"])
        values["plan"] = SearchPlan(**plan)
        return cls(**values)
