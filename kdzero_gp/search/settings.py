"""What a run is decided by, and each task's defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kdzero_gp.engine.proxy_recipe import Recipe
from kdzero_gp.errors import DataError, SettingError
from kdzero_gp.evolution import SPACES, SearchSettings
from kdzero_gp.proxy.fitness import FitnessWeights
from kdzero_gp.proxy.screens import SCREENS

MAGNITUDE_MODES = ("relative", "absolute")
# What several objectives can be: the metrics of fitness, milliseconds of a step, MiB that the loss keeps for a batch.
OBJECTIVES = ("cross_entropy", "calibrated", "sharpness_gap", "cka_gap", "step_time", "memory")

# What of a plan has an option of its own name on the command line.
PLAN_OPTIONS = (
    "images", "validation_images", "race_top", "race_seeds", "proxy_trains", "surrogate_share", "short_bound",
    "loss_memory",
)  # fmt: skip
# The command line's options for the shares of the fitness.
WEIGHT_OPTIONS = {
    "cross_entropy": "--ce-weight",
    "calibrated": "--calibrated-weight",
    "sharpness_gap": "--sharpness-weight",
    "cka_gap": "--cka-weight",
}


@dataclass(frozen=True)
class SearchPlan:
    """A task's defaults. ``images`` and ``validation_images`` bound what a proxy trains and is measured on (None: all).
    ``zoo_factors`` are the magnitudes among which every published method is tuned. ``race_zoo``: how many published
    methods race besides ``kd`` (None: all). ``teacher_recipe``: how a teacher is trained when no weights are given
    (None: weights are needed). ``baseline_seeds``: over how many proxy trainings by cross-entropy alone the baseline
    of fitness is averaged. ``weights``: the shares of the metrics in it. ``surrogate_share``: how many of the latest
    candidates, by the fitness predicted for them, are worth a training. After the share ``short`` of a proxy's
    steps, a candidate whose gaps are more than ``short_bound`` times those of cross-entropy alone is stopped.
    ``proxy_trains``: the ``whole`` student, or its ``last-stage`` on kept maps of the warm student's other stages.
    ``loss_memory``: MiB that a loss may keep for one batch; what takes more takes long too."""

    teacher: str
    student: str
    warm: Recipe
    proxy: Recipe
    race: Recipe
    weights: FitnessWeights = field(default_factory=FitnessWeights)
    proxy_trains: str = "whole"
    surrogate_share: float = 0.33
    short: float = 0.2
    short_bound: float = 1.02
    loss_memory: float = 64.0
    teacher_recipe: Recipe | None = None
    images: int | None = None
    validation_images: int | None = None
    race_from_scratch: bool = True
    race_seeds: int = 5
    race_top: int = 10
    race_zoo: int | None = None
    zoo_factors: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    baseline_seeds: int = 5


# Digits: a student of 438 parameters stays some points below the teacher on labels alone. All 900 training images;
# 6 epochs bring it to about 70 %, 5 annealed ones score a distiller, 25 from scratch race it. No other weights of the
# three metrics were clearly better (experiments/proxy_fidelity).
_DIGITS = SearchPlan(
    teacher="digits_cnn_32",
    student="digits_cnn_4",
    teacher_recipe=Recipe(epochs=30, batch_size=64, learning_rate=0.1),
    warm=Recipe(epochs=6, batch_size=64, learning_rate=0.1, decay="constant"),
    proxy=Recipe(epochs=5, batch_size=64, learning_rate=0.1, decay="linear"),
    race=Recipe(epochs=25, batch_size=64, learning_rate=0.1),
    loss_memory=3.0,
)
# CIFAR-size images: a student of 15 epochs, whose last stage goes on for 250 annealed steps. That ranks published
# methods better than the whole student does and costs a quarter; weaker warm students and fewer steps rank worse
# (experiments/proxy_choice). Judged by the cross-entropy at the best temperature: as it is it ranks confident students
# last, and with the gaps evolution closes these instead of learning (experiments/cifar100). Early gaps tell less than
# on digits, so the bound on them is wide (experiments/screens). Races train whole students, but from the warm one too,
# since from scratch they would take hours on a CPU.
_CIFAR = SearchPlan(
    teacher="resnet56",
    student="resnet20",
    warm=Recipe(epochs=15, batch_size=64, learning_rate=0.05, decay="constant"),
    proxy=Recipe(epochs=2, batch_size=64, learning_rate=0.05, decay="linear"),
    race=Recipe(epochs=4, batch_size=64, learning_rate=0.05, decay="linear"),
    weights=FitnessWeights(cross_entropy=0.0, sharpness_gap=0.0, cka_gap=0.0, calibrated=1.0),
    proxy_trains="last-stage",
    short_bound=1.1,
    images=8000,
    validation_images=2000,
    race_from_scratch=False,
    race_seeds=2,
    race_top=3,
    race_zoo=2,
    zoo_factors=(1.0,),
    baseline_seeds=2,
)
# Other images can be large: half as many, twice as often.
_FOLDER = dataclasses.replace(
    _CIFAR, teacher_recipe=Recipe(epochs=30, batch_size=64, learning_rate=0.1), images=4000,
    proxy=dataclasses.replace(_CIFAR.proxy, epochs=4), race_seeds=3, race_zoo=None,
)  # fmt: skip
PLANS: Mapping[str, SearchPlan] = {"digits": _DIGITS, "cifar10": _CIFAR, "cifar100": _CIFAR, "folder": _FOLDER}

# What a proxy can train.
PROXY_TRAINS = ("whole", "last-stage")
# What a search's winner can be for.
TRAININGS = ("long", "short")


def plan_for(task: str, training: str = "long") -> SearchPlan:
    """The task's plan for winners that are for ``long`` trainings, or for ``short`` ones of a few epochs.

    A long training is resembled by proxies that anneal a warm student, a short one by proxies of a nearly new, whole
    student that are judged by cross-entropy alone; early gaps stop none of these (experiments/cifar100). Raises
    SettingError.
    """
    if task not in PLANS:
        raise DataError(f"there is no task {task!r}; choose one of {', '.join(PLANS)} with --task")
    if training not in TRAININGS:
        raise SettingError(f"--training must be one of {', '.join(TRAININGS)}, got {training!r}")
    plan = PLANS[task]
    if training == "long":
        return plan
    warm = dataclasses.replace(plan.warm, epochs=1)
    images, epochs = (None, 7.5) if plan.images is None else (4000, 3.0)
    proxy = dataclasses.replace(plan.proxy, epochs=epochs)
    weights = FitnessWeights(cross_entropy=1.0, sharpness_gap=0.0, cka_gap=0.0, calibrated=0.0)
    return dataclasses.replace(
        plan, images=images, warm=warm, proxy=proxy, weights=weights, short_bound=math.inf, proxy_trains="whole"
    )


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
    plan: SearchPlan = _DIGITS

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
            plan[name] = Recipe(**plan[name]) if plan[name] is not None else None
        plan["zoo_factors"] = tuple(plan["zoo_factors"])
        plan["weights"] = FitnessWeights(**plan["weights"])
        values["plan"] = SearchPlan(**plan)
        return cls(**values)
