"""What a training follows from, apart from the machine, and what it ends with."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import SettingError
from kdzero_gp.training.distillers import MAGNITUDE_MODES


@dataclass(frozen=True)
class Settings:
    """One training. Without ``source`` (the text of a distiller's module) it is by cross-entropy alone. Without
    ``validate`` it takes the validation images too, and its last weights are the final ones."""

    task: str
    student: str
    recipe: Recipe
    data: str | None = None
    student_taps: dict[str, str] = field(default_factory=dict)
    teacher: str = ""
    teacher_weights: str | None = None
    teacher_taps: dict[str, str] = field(default_factory=dict)
    distiller: str = ""
    source: str = ""
    magnitude: str = "joint"
    factor: float = 1.0
    seed: int = 0
    validate: bool = True

    def __post_init__(self) -> None:
        """Raises SettingError for values that make no sense."""
        if self.magnitude not in MAGNITUDE_MODES:
            raise SettingError(f"--magnitude must be one of {', '.join(MAGNITUDE_MODES)}, got {self.magnitude!r}")
        if not 0 < self.factor < float("inf"):
            raise SettingError(f"the magnitude's factor must be above 0, got {self.factor:g}")
        if not 0 <= self.seed < 1 << 40:
            raise SettingError(f"--seed must be from 0 to 2^40, got {self.seed}")

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self) | {"recipe": self.recipe.as_dict()}))
        return found


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended: shares of right answers (``test`` of the final weights, read once), the epoch that they
    come from, and what it cost. ``reason`` says why there is no result. ``seconds`` count every start of it."""

    test_accuracy: float = float("nan")
    validation_accuracy: float | None = None
    validation_cross_entropy: float | None = None
    last_validation_accuracy: float | None = None
    last_validation_cross_entropy: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    teacher_accuracy: float | None = None
    parameters: int = 0
    magnitudes: tuple[float, ...] = ()
    step_milliseconds: float = float("nan")
    peak_megabytes: float = float("nan")
    seconds: float = 0.0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it; what was not measured is null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> TrainingResult:
        """Read back what ``as_dict`` gave."""
        names = {f.name for f in dataclasses.fields(cls)}
        values = {name: value for name, value in stored.items() if name in names}
        for name in ("test_accuracy", "step_milliseconds", "peak_megabytes"):
            values[name] = float("nan") if values.get(name) is None else values[name]
        return cls(**values | {"magnitudes": tuple(values.get("magnitudes", ()))})
