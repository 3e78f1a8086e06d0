"""A student, a teacher and their data by names, as the settings of searches and trainings have them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from kdzero_gp.data.dataset import Statistics
from kdzero_gp.errors import SettingError
from kdzero_gp.models.normalisation import parse_statistics


@dataclass(frozen=True)
class NamedPair:
    """Who learns from whom on which data. ``channels`` of the images (None: as the data have them, and RGB for a
    student that needs it). ``teacher_mean``, ``teacher_std``, ``student_mean`` and ``student_std``: how their images
    are normalised (see ``models.normalisation``); None takes what is known of their weights, or else the images' own.
    ``inherit_head``: the student starts with the weights of the teacher's neck and head that fit it.
    """

    task: str = "digits"
    student: str = ""
    teacher: str = ""
    teacher_weights: str | None = None
    data: str | None = None
    teacher_taps: dict[str, str] = field(default_factory=dict, kw_only=True)
    student_taps: dict[str, str] = field(default_factory=dict, kw_only=True)
    student_weights: str | None = field(default=None, kw_only=True)
    inherit_head: bool = field(default=False, kw_only=True)
    channels: int | None = field(default=None, kw_only=True)
    teacher_mean: str | None = field(default=None, kw_only=True)
    teacher_std: str | None = field(default=None, kw_only=True)
    student_mean: str | None = field(default=None, kw_only=True)
    student_std: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Raises SettingError for values that make no sense."""
        self.statistics("teacher"), self.statistics("student")
        if self.channels is not None and self.channels < 1:
            raise SettingError(f"--channels must be at least 1, got {self.channels}")

    def statistics(self, role: str) -> Statistics | None:
        """The mean and deviation of a network's images, as far as they are said. Raises SettingError."""
        return parse_statistics(role, getattr(self, f"{role}_mean"), getattr(self, f"{role}_std"))

    @property
    def described(self) -> str:
        """Who learns from whom, in words."""
        start = " that starts with the teacher's head" if self.inherit_head else ""
        return f"teacher {self.teacher}, student {self.student}{start}, task {self.task}"

    @property
    def names(self) -> dict[str, Any]:
        """These fields alone."""
        return {one.name: getattr(self, one.name) for one in fields(NamedPair)}
