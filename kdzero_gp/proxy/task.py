"""The bench: everything one evaluation needs, prepared once. Images, the teacher's outputs, the warm student."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.engine.outputs import TensorSplit
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import RunError

BuildStudent = Callable[[], nn.Module]


@dataclass
class ProxyTask:
    """One teacher-student pair on one task, as evaluations see it.

    ``student`` says how to build the student (``name``, ``classes``, ``channels``, ``taps``); ``warm`` are the
    weights that every proxy training starts from. ``test`` is only read by the race, and never used to choose.
    ``maps``: what the warm student's stages before the last give on the images of ``train`` and ``validation``, where
    proxies train the last stage alone; ``tail`` says how to build that.
    """

    train: TensorSplit
    validation: TensorSplit
    test: TensorSplit
    student: dict[str, Any]
    student_shapes: dict[str, tuple[int, ...]]
    teacher_shapes: dict[str, tuple[int, ...]]
    recipes: dict[str, Recipe]
    warm: dict[str, Tensor] = field(default_factory=dict)
    precision: str = "float32"
    channels_last: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    tail: dict[str, Any] = field(default_factory=dict)

    def of(self, recipe: str) -> ProxyTask:
        """The bench of the trainings of a recipe: for proxies of the last stage, its maps take the images' place."""
        if recipe == "race" or not self.maps:
            return self
        parts = {name: replace(getattr(self, name), images=maps) for name, maps in self.maps.items()}
        return replace(self, **parts, student=self.tail, maps={}, tail={})

    def save(self, path: Path) -> None:
        """Write the bench; the file appears whole or not at all. Raises ``RunError`` where it cannot."""
        content = {f.name: getattr(self, f.name) for f in self.__dataclass_fields__.values()}
        for name in ("train", "validation", "test"):
            content[name] = vars(content[name])
        content["recipes"] = {name: asdict(recipe) for name, recipe in self.recipes.items()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(content, temporary)
            temporary.replace(path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            # torch reports a full disk as an internal check that failed
            reason = error.strerror if isinstance(error, OSError) else "the disk may be full"
            raise RunError(f"cannot write {path}: {reason}; free space or choose another place with --out") from None

    @classmethod
    def load(cls, path: Path) -> ProxyTask:
        """Read a bench; tensors stay on the disk until they are used. Raises ``RunError`` for a damaged file."""
        try:
            content = torch.load(path, mmap=True, weights_only=True)
        except Exception as error:
            raise RunError(f"{path} is damaged ({error}); delete it and resume, it is made again") from None
        for name in ("train", "validation", "test"):
            content[name] = TensorSplit(**content[name])
        content["recipes"] = {name: Recipe(**numbers) for name, numbers in content["recipes"].items()}
        return cls(**content)
