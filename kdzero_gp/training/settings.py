"""What a training follows from, apart from the machine, and what it ends with."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from kdzero_gp.engine.gradients import MAGNITUDE_MODES
from kdzero_gp.engine.pair import NamedPair
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Settings(NamedPair):
    """One training. Without ``source`` (the text of a distiller's module) it is by cross-entropy alone. Without
    ``validate`` it takes the validation images too, and its last weights are the final ones. ``backbone``: a file of
    weights that the part of the student of this name starts with. ``shadow``: on whose maps a second class head is
    put."""

    recipe: Recipe
    distiller: str = ""
    source: str = ""
    magnitude: str = "joint"
    factor: float = 1.0
    seed: int = 0
    validate: bool = True
    backbone: str | None = None
    shadow: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.magnitude not in MAGNITUDE_MODES:
            raise SettingError(f"--magnitude must be one of {', '.join(MAGNITUDE_MODES)}, got {self.magnitude!r}")
        if self.shadow not in (None, "teacher", "student"):
            raise SettingError(f"--shadow must be teacher or student, got {self.shadow!r}")
        if not 0 < self.factor < float("inf"):
            raise SettingError(f"the magnitude's factor must be above 0, got {self.factor:g}")
        if not 0 <= self.seed < 1 << 40:
            raise SettingError(f"--seed must be from 0 to 2^40, got {self.seed}")

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self) | {"recipe": self.recipe.as_dict()}))
        return found


# The parts that a student is measured on, and the teacher.
MEASURED = ("test", "validation", "last_validation", "teacher")


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended. ``test`` are the measures of the final weights on the test images, read once;
    ``validation`` those of the epoch that the final weights come from, and ``last_validation`` those of the last.
    ``teacher`` are the teacher's; ``reason`` says why there is no result. ``seconds`` count every start of it."""

    test: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    last_validation: dict[str, float] = field(default_factory=dict)
    teacher: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    epochs: float = 0
    parameters: int = 0
    magnitudes: tuple[float, ...] = ()
    step_milliseconds: float | None = None
    peak_megabytes: float | None = None
    seconds: float = 0.0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    def row(self) -> dict[str, Any]:
        """As one line of a table: the measures as ``test_accuracy`` and so on."""
        flat = {f"{part}_{name}": v for part in MEASURED for name, v in getattr(self, part).items()}
        return flat | {name: v for name, v in vars(self).items() if name not in (*MEASURED, "magnitudes")}

    @classmethod
    def from_dict(cls, stored: Any) -> TrainingResult:
        """Read back what ``as_dict`` gave. Raises TypeError for what another version wrote."""
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(stored, dict) or not names <= stored.keys():
            raise TypeError("fields are missing")
        values = {name: value for name, value in stored.items() if name in names}
        return cls(**values | {"magnitudes": tuple(values["magnitudes"])})
