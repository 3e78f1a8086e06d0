"""What a run is decided by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cattrs

from kdzero_gp import tasks
from kdzero_gp.compiler import PairShapes, pair_shapes
from kdzero_gp.data.resizing import parse_size
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.pair import NamedPair
from kdzero_gp.errors import SettingError
from kdzero_gp.evolution import SPACES, SearchSettings
from kdzero_gp.families import TaskFamily
from kdzero_gp.language_model import ModelSettings
from kdzero_gp.proxy.fitness import check_weights
from kdzero_gp.proxy.screens import SCREENS
from kdzero_gp.tasks.plan import DIGITS, PROXY_TRAINS, SearchPlan

JUDGES = ("none", "surrogate", "model")
MAGNITUDE_MODES = ("relative", "absolute")
# What several objectives can be besides the family's metrics: milliseconds of a step, MiB that the loss keeps for a
# batch.
COSTS = ("step_time", "memory")
# Fewer images are no measurement.
LEAST_IMAGES = 64


@dataclass(frozen=True)
class RunSettings(NamedPair):
    """Everything that a run's results follow from, apart from the kind of machine. Stored with the run.

    ``knowledge``: what distillers can be made of; nothing stands for logits, emb and feat, as far as both networks have
    them, and what is named by a tap. ``precision`` (such as ``bfloat16,channels-last``) and ``threads``: None lets the
    run choose. ``image_size`` (``32`` or ``48x64``): None takes what the data have. ``judge``: who compares a child
    with one of the population while the surrogate is blind. ``llm``: a language model's part.
    """

    knowledge: tuple[str, ...] = ()
    space: str = "open"
    magnitude: str = "relative"
    seed_zoo: bool = True
    screens: tuple[str, ...] = SCREENS
    precision: str | None = None
    threads: int | None = None
    search: SearchSettings = field(default_factory=SearchSettings)
    plan: SearchPlan = DIGITS
    image_size: str | None = None
    judge: str = "none"
    llm: ModelSettings = field(default_factory=ModelSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        plan = self.plan
        _one_of("--space", self.space, SPACES)
        _one_of("--judge", self.judge, JUDGES)
        _one_of("--magnitude", self.magnitude, MAGNITUDE_MODES)
        _one_of("--proxy-trains", plan.proxy_trains, PROXY_TRAINS)
        _known("screen", "--screens", self.screens, SCREENS, ", all or none")
        metrics = self.family.metrics
        _known("objective", "--objectives", self.search.objectives, (*metrics, *COSTS))
        check_weights(plan.weights, metrics)
        if self.precision is not None:
            Precision.parse(self.precision)
        if self.image_size is not None:
            parse_size(self.image_size)
        checks = [
            (self.judge != "model" or self.llm.asked,
             "--judge model has no effect without --llm-url; add it, or leave --judge out"),
            (self.threads is None or self.threads >= 1, f"--threads must be at least 1, got {self.threads}"),
            (plan.race_seeds >= 1, f"--race-seeds must be at least 1, got {plan.race_seeds}"),
            (plan.fresh_seeds >= 0, f"--fresh-seeds must be at least 0, got {plan.fresh_seeds}"),
            (plan.prune >= 0, f"--prune must be at least 0, got {plan.prune}"),
            (plan.heat >= 0, f"--heat must be at least 0, got {plan.heat}"),
            (plan.race_top >= 1, f"--race-top must be at least 1, got {plan.race_top}"),
            (0 < plan.surrogate_share <= 1,
             f"--surrogate-share must lie above 0 and not above 1, got {plan.surrogate_share:g}"),
            (plan.short_bound > 0, f"--short-bound must be more than 0, got {plan.short_bound:g}"),
            (plan.loss_memory > 0, f"--loss-memory must be more than 0 MiB, got {plan.loss_memory:g}"),
            (plan.images is None or plan.images >= LEAST_IMAGES,
             f"--images must be at least {LEAST_IMAGES}, got {plan.images}"),
            (plan.validation_images is None or plan.validation_images >= LEAST_IMAGES,
             f"--validation-images must be at least {LEAST_IMAGES}, got {plan.validation_images}"),
        ]  # fmt: skip
        for holds, message in checks:
            if not holds:
                raise SettingError(message)

    @property
    def family(self) -> TaskFamily:
        """The family of the task."""
        return tasks.get(self.task).family

    def shapes(self, bench: Mapping[str, Any]) -> PairShapes:
        """The shapes of the run's pair, from what the run keeps of its bench."""
        return pair_shapes(bench["student_shapes"], bench["teacher_shapes"], self.family.knowledge)

    def searched(self, student: Collection[str], teacher: Collection[str]) -> list[str]:
        """The knowledge that distillers are made of, given what the networks expose. Raises SettingError for what was
        asked for and one of them does not have."""
        usual = self.family.usual
        tapped = [name for name in (*self.teacher_taps, *self.student_taps) if name not in usual]
        asked = list(dict.fromkeys(self.knowledge or tapped))
        for name in asked:
            if name in self.family.at_student:
                raise SettingError(
                    f"a search keeps what the teacher says, and its {name} are of the student's proposals; leave "
                    f"{name} out, and give distillers of it to distill or compare"
                )
            for role, exposed in (("teacher", teacher), ("student", student)):
                if name not in exposed:
                    raise SettingError(
                        f"the {role} has no {name}; it has {', '.join(exposed)}: name a layer with --{role}-tap "
                        f"{name}=LAYER, or leave {name} out"
                    )
        shared = [] if self.knowledge else [name for name in usual if name in student and name in teacher]
        return [*shared, *asked]

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RunSettings:
        """Read back what ``as_dict`` gave."""
        return cattrs.structure(stored, cls)


def _one_of(option: str, value: str, names: Collection[str]) -> None:
    if value not in names:
        raise SettingError(f"{option} must be one of {', '.join(names)}, got {value!r}")


def _known(noun: str, option: str, values: Collection[str], names: Collection[str], more: str = "") -> None:
    unknown = [value for value in values if value not in names]
    if unknown:
        raise SettingError(f"there is no {noun} {unknown[0]!r}; {option} takes {', '.join(names)}{more}")
