"""Task families: what a network exposes, what a target is, and what "good" means.

The engine, the search, the tables and the page know a task through its family alone. To add one, write a module with a
``TaskFamily`` and name it in a ``Task`` (see ``kdzero_gp.tasks``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kdzero_gp.common import UNKNOWN
from kdzero_gp.compiler.knowledge import KnowledgeSpec
from kdzero_gp.data.augmentation import Geometry, cropped

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Measure:
    """A column of every table, chart and file: how good a trained student is.

    ``unit``: ``%`` for shares in 0..1 (shown times 100), else what follows the number, such as ``nats``.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """The label with its unit.

        >>> Measure("accuracy", "accuracy", "%").heading
        'accuracy %'
        """
        return f"{self.label} {self.unit}".strip()

    @property
    def scale(self) -> float:
        """What stored values are multiplied with before they are shown."""
        return 100.0 if self.unit == "%" else 1.0

    def text(self, value: float, half_width: float = math.nan) -> str:
        """A value, with the half-width of its interval where there is one.

        >>> Measure("accuracy", "accuracy", "%").text(0.9512, 0.0102)
        '95.12 ± 1.02'
        """
        if math.isnan(value):
            return UNKNOWN
        digits = 2 if self.unit == "%" else 4
        shown = f"{self.scale * value:.{digits}f}"
        return shown if math.isnan(half_width) else f"{shown} ± {self.scale * half_width:.{digits}f}"

    def with_unit(self, value: float, half_width: float = math.nan) -> str:
        """The same, followed by the unit.

        >>> Measure("accuracy", "accuracy", "%").with_unit(0.9512, 0.0102)
        '95.12 ± 1.02 %'
        """
        return UNKNOWN if math.isnan(value) else f"{self.text(value, half_width)} {self.unit}".rstrip()

    def difference(self, value: float, half_width: float = math.nan) -> str:
        """A difference of two values with its sign; of shares in percentage points.

        >>> Measure("accuracy", "accuracy", "%").difference(-0.01, 0.002)
        '−1.00 ± 0.20'
        """
        if math.isnan(value):
            return UNKNOWN
        return f"{'+' if value >= 0 else '−'}{self.text(abs(value), half_width)}"

    @property
    def difference_unit(self) -> str:
        """The unit of a difference."""
        return "points" if self.unit == "%" else self.unit

    def key(self, value: float) -> float:
        """What sorts the best value first; one that was not measured comes last."""
        if math.isnan(value):
            return math.inf
        return -value if self.higher_is_better else value


class TaskFamily(ABC):
    """One kind of task.

    ``knowledge`` says what networks may expose, by name or pattern, and ``usual`` which of it distillers are made of
    where nobody asks for more. ``at_student``: what a teacher says of the student's proposals, so that it cannot be
    kept. ``measures`` are what a student is measured by; ``decides`` names the one that ranks
    races and picks the best epoch, and ``breaks_ties`` the one that orders equals. ``metrics`` are what fitness may
    weigh: measures, gaps to the teacher (``…_gap``), and ``error``, what the deciding measure, a share, lacks to 1, all
    lower for better; ``loss`` names the student's own loss among them, the first that fitness is about. ``of_class``:
    what is measured of each class, as NAME_0, NAME_1, … beside the measures (None: nothing).
    """

    name: str
    of_class: Measure | None = None
    knowledge: Mapping[str, KnowledgeSpec]
    usual: tuple[str, ...]
    at_student: tuple[str, ...] = ()
    measures: tuple[Measure, ...]
    decides: str
    breaks_ties: str
    metrics: tuple[str, ...]
    loss: str

    def measure_of(self, name: str) -> Measure:
        """The measure of this name. Raises KeyError."""
        return {measure.name: measure for measure in self.measures}[name]

    @property
    def deciding(self) -> Measure:
        """The measure that ranks."""
        return self.measure_of(self.decides)

    def order(self, values: Mapping[str, float]) -> list[float]:
        """What sorts the best first: by the measure that decides, and equals by the one that breaks ties. What was not
        measured comes last."""
        measures = (self.deciding, self.measure_of(self.breaks_ties))
        return [measure.key(values.get(measure.name, math.nan)) for measure in measures]

    @abstractmethod
    def build(self, name: str, classes: int, channels: int) -> nn.Module:
        """A new network with random weights, by name. Raises ModelError."""

    @abstractmethod
    def tap(self, network: nn.Module, example: Tensor, taps: Mapping[str, str] | None, classes: int) -> nn.Module:
        """The network with its knowledge as outputs (``network``, ``taps``, ``shapes``). Raises ModelError."""

    @abstractmethod
    def own_loss(self, outputs: Outputs, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """What the student minimises without a teacher: a scalar."""

    @abstractmethod
    def guessing(self, classes: int) -> float:
        """The own loss of a student that knows nothing."""

    @abstractmethod
    def chance(self, targets: Tensor, classes: int) -> float:
        """The value of the deciding measure below which a network has not learnt anything, for so many targets."""

    def predicted(self, outputs: Outputs) -> Tensor | None:
        """The class of each sample by a network's outputs; None where targets are no single classes."""
        return None

    def mimic(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How far logits are from others, a scalar with a gradient for the first; for shadow heads, which a family
        without it does not have."""
        raise NotImplementedError

    def shown(self, outputs: Outputs, size: tuple[int, int]) -> Tensor | None:
        """What a network says of images of this height and width, for pictures, in the form of targets: label maps
        N×H×W, or boxes N×D×6 of which the last number is the score. None where there is nothing to draw."""
        return None

    def labels(self, targets: Tensor) -> Tensor:
        """What label operations index: the logits' shape without its classes; a negative value is ignored."""
        return targets

    def crop(self, images: Tensor, targets: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Images N×C×H×W moved, mirrored and cut, and their targets moved along (here: as they are)."""
        return cropped(images, geometry), targets

    @abstractmethod
    def measure(self, batches: Iterable[tuple[Outputs, Tensor]]) -> dict[str, float]:
        """All measures of a student, from its outputs (those in ``read``) and the targets, batch by batch."""

    @abstractmethod
    def compare(self, student: Outputs, teacher: Outputs, targets: Tensor) -> dict[str, float]:
        """The metrics that are no measures: gaps to the teacher, on the same samples."""

    @abstractmethod
    def disagreement(self, knowledge: str, student: Tensor, teacher: Tensor) -> float:
        """How far a knowledge of the student is from the teacher's, both raw; 0 where they agree."""

    @property
    @abstractmethod
    def read(self) -> Sequence[str]:
        """The outputs that ``measure`` and ``compare`` look at."""
