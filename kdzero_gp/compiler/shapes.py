"""The shapes of a teacher-student pair, and what they mean for a distiller: knowledge types and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kdzero_gp.errors import ShapeError
from primitives import CATALOGUE, LOGITS, PairType
from primitives.types import DIMENSIONS

Shape = tuple[int, ...]
# The batch size that shapes are traced with. Relations are square in it; any number but a real size would do.
TRACED_BATCH = 5


@dataclass(frozen=True)
class PairShapes:
    """The per-sample shapes (no batch axis) of what a student and a teacher expose, by knowledge."""

    student: Mapping[str, Shape]
    teacher: Mapping[str, Shape]

    @property
    def types(self) -> dict[str, PairType]:
        """The knowledge that both expose, with its type. Feature maps are maps on both sides or tokens on both."""
        found = {}
        for name, shape in self.student.items():
            if name not in self.teacher:
                continue
            ranks = {len(shape), len(self.teacher[name])}
            if name == "logits":
                found[name] = LOGITS
            elif ranks == {1}:
                found[name] = PairType("matrix")
            elif ranks == {3}:
                found[name] = PairType("map")
            elif ranks <= {2, 3}:
                found[name] = PairType("tokens")
        return found

    def leaf(self, name: str, side: str) -> Shape:
        """The per-sample shape of a leaf as the distiller sees it: maps become tokens where the other side has
        tokens."""
        shape = getattr(self, side)[name]
        if self.types[name].rank == "tokens" and len(shape) == 3:
            return (shape[0], shape[1] * shape[2])
        return tuple(shape)


def pair_shapes(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> PairShapes:
    """Read shapes given as tuples, with or without the batch axis, or as tensors (which have it).

    Raises ``ShapeError`` where a shape is not one of C, C×M or C×H×W per sample, or the numbers of classes differ.
    """
    shapes = PairShapes(_per_sample(student, "student"), _per_sample(teacher, "teacher"))
    classes = shapes.student.get("logits"), shapes.teacher.get("logits")
    if None not in classes and classes[0] != classes[1]:
        raise ShapeError(
            f"the student has {classes[0][0]} classes and the teacher {classes[1][0]}; "  # type: ignore[index]
            "build both for the classes of the data"
        )
    if not shapes.types:
        raise ShapeError("the student and the teacher expose no common knowledge; name a tap on both")
    return shapes


def _per_sample(given: Mapping[str, Any], side: str) -> dict[str, Shape]:
    shapes = {name: tuple(s.shape) if isinstance(s, Tensor) else tuple(s) for name, s in given.items()}
    batched = any(isinstance(s, Tensor) for s in given.values()) or any(
        len(shapes[name]) == 2 for name in ("logits", "emb") if name in shapes
    )
    if batched:
        shapes = {name: shape[1:] for name, shape in shapes.items()}
    for name, shape in shapes.items():
        ranks: Sequence[int] = (1,) if name in ("logits", "emb") else (2, 3)
        if len(shape) not in ranks or any(int(size) < 1 for size in shape):
            wanted = "C" if ranks == (1,) else "C×M or C×H×W"
            raise ShapeError(f"the {side}'s {name} has shape {shape} per sample; expected {wanted}")
    return shapes


@lru_cache(maxsize=16384)
def result_shape(name: str, shape: Shape, constants: tuple[float, ...]) -> Shape:
    """The shape of a transform's result, found by running the transform without data."""
    operation = CATALOGUE[name]
    x = torch.empty(shape, device="meta")
    extra: list[Any] = list(constants)
    if operation.noise is not None:
        extra.append(operation.noise(x))
    if operation.needs_labels:
        extra.append(torch.zeros(shape[0], dtype=torch.long))
        x = torch.zeros(shape)  # one_hot has no data-free form
    return tuple(operation.function(x, *extra).shape)


def agrees(axes: tuple[str, ...], rank: str, student: Shape, teacher: Shape) -> bool:
    """Whether both sides have one size along ``axes``."""
    if "*" in axes:
        return student == teacher
    return all(
        student[dimension] == teacher[dimension] for axis in axes for dimension in DIMENSIONS.get((rank, axis), ())
    )


@dataclass(frozen=True)
class Adapter:
    """What brings a student's leaf to the teacher's shape: pooling to ``size`` (or none) and a learnable map from
    ``channels[0]`` to ``channels[1]`` channels (or none)."""

    knowledge: str
    rank: str
    size: Shape | None
    channels: tuple[int, int] | None


def adapters(shapes: PairShapes, name: str) -> list[Adapter | None]:
    """The ways to bring a student's leaf nearer to the teacher's, the least first: nothing, pooling, everything."""
    student, teacher = shapes.leaf(name, "student"), shapes.leaf(name, "teacher")
    if name == "logits" or student == teacher:
        return [None]
    rank = shapes.types[name].rank
    channels = (student[0], teacher[0]) if student[0] != teacher[0] else None
    size = teacher[1:] if student[1:] != teacher[1:] else None
    ways: list[Adapter | None] = [None]
    if size is not None and channels is not None:
        ways.append(Adapter(name, rank, size, None))
    return [*ways, Adapter(name, rank, size, channels)]
