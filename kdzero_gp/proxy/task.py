"""The proxy task: everything one evaluation needs, prepared once. Images, the teacher's outputs, the warm student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp import tasks
from kdzero_gp.engine.outputs import Precision, TensorSplit
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import RunError
from kdzero_gp.families import TaskFamily
from kdzero_gp.files import atomic_write

BuildStudent = Callable[[], nn.Module]
SPLITS = ("train", "validation", "test")


@dataclass
class ProxyTask:
    """One teacher-student pair on one task, as evaluations see it.

    ``student`` says how to build it (``task``, ``name``, ``classes``, ``channels``, ``taps``); ``warm`` are the weights
    that every proxy training starts from, and races too unless ``race_from_scratch``; ``threads`` are those that warmed
    it up. ``test`` is only read by the race, and never used to choose. ``maps``: what the warm student's stages before
    the last give on the images of ``train`` and ``validation``, where proxies train the last stage alone; ``tail`` says
    how to build that. ``account`` says what was read; ``teacher`` are the teacher's measures, named ``validation_…``
    and ``test_…``. ``layers``: where "student" and "teacher" are read (see ``Tapped.layers``); ``teacher_sees``: what
    is done to the teacher's images, in words; ``teacher_statistics``: options for its mean and deviation, where
    these had to be found.
    """

    train: TensorSplit
    validation: TensorSplit
    test: TensorSplit
    student: dict[str, Any]
    student_shapes: dict[str, tuple[int, ...]]
    teacher_shapes: dict[str, tuple[int, ...]]
    recipes: dict[str, Recipe]
    warm: dict[str, Tensor] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)
    threads: int = 1
    race_from_scratch: bool = True
    teacher: dict[str, float] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    tail: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    teacher_sees: str = ""
    teacher_statistics: dict[str, str] = field(default_factory=dict)

    @cached_property
    def family(self) -> TaskFamily:
        """What the task's networks expose and are measured by."""
        return tasks.get(self.student["task"]).family

    @property
    def classes(self) -> int:
        """How many the networks tell apart."""
        return int(self.student["classes"])

    def steps(self, recipe: str) -> int:
        """Steps of a training by one of the recipes."""
        used, images = self.recipes[recipe], len(self.train.labels) // self.train.draws
        return used.steps(max(1, images // min(used.batch_size, images)))

    def of(self, recipe: str) -> ProxyTask:
        """The task of the trainings of a recipe: for proxies of the last stage, its maps take the images' place."""
        if recipe == "race" or not self.maps:
            return self
        splits = {name: replace(getattr(self, name), images=maps) for name, maps in self.maps.items()}
        return replace(self, **splits, student=self.tail, maps={}, tail={})

    def save(self, path: Path) -> None:
        """Write the task; the file appears whole or not at all. Raises ``RunError`` where it cannot."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content |= {name: content[name].stored() for name in SPLITS}
        content["recipes"] = {name: asdict(recipe) for name, recipe in self.recipes.items()}
        content["precision"] = str(self.precision)
        try:
            atomic_write(path, lambda temporary: torch.save(content, temporary), "free space or choose another --out")
        except RuntimeError:  # torch reports a full disk as an internal check that failed
            raise RunError(f"cannot write {path}: the disk may be full; free space or choose another --out") from None

    @classmethod
    def load(cls, path: Path) -> ProxyTask:
        """Read a task; tensors stay on the disk until they are used. Raises ``RunError`` for a damaged file."""
        try:
            content = torch.load(path, mmap=True, weights_only=True)
            content |= {name: TensorSplit.from_stored(content[name]) for name in SPLITS}
            content["recipes"] = {name: Recipe(**numbers) for name, numbers in content["recipes"].items()}
            content["precision"] = Precision.parse(content["precision"])
            return cls(**content)
        except Exception as error:
            raise RunError(f"{path} is damaged ({error}); delete it and resume, it is made again") from None
