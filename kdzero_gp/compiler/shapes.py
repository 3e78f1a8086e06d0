"""The shapes of a teacher-student pair, and what they mean for a distiller: knowledge types and adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kdzero_gp.compiler.expression import is_knowledge
from kdzero_gp.errors import ShapeError
from primitives import CATALOGUE, LOGITS, PairType
from primitives.types import DIMENSIONS

Shape = tuple[int, ...]
# The batch size that shapes are traced with: a prime that is no network's size, so that comments can show it as N.
TRACED_BATCH = 1009


@dataclass(frozen=True)
class PairShapes:
    """The per-sample shapes (no batch axis) of what a student and a teacher expose, by knowledge."""

    student: Mapping[str, Shape]
    teacher: Mapping[str, Shape]

    @property
    def types(self) -> dict[str, PairType]:
        """The knowledge that both expose, with its type. Tokens whose number is a square are the map they were cut
        from, so that a vision transformer and a convolutional network can be compared; other tokens make the pair
        one of tokens."""
        found = {}
        for name in self.student:
            if name not in self.teacher or not is_knowledge(name):
                continue
            shapes = (self.student[name], self.teacher[name])
            if name == "logits":
                found[name] = LOGITS
            elif {len(shape) for shape in shapes} == {1}:
                found[name] = PairType("matrix")
            else:
                found[name] = PairType("map" if all(_side_of(shape) for shape in shapes) else "tokens")
        return found

    def leaf(self, name: str, side: str) -> Shape:
        """The per-sample shape of a leaf as the distiller sees it: square tokens as a map, or maps as tokens where
        the other side has tokens that are not square."""
        shape = tuple(getattr(self, side)[name])
        rank = self.types[name].rank
        if rank == "tokens" and len(shape) == 3:
            return (shape[0], shape[1] * shape[2])
        if rank == "map" and len(shape) == 2:
            return (shape[0], *_side_of(shape))
        return shape


def _side_of(shape: Shape) -> Shape:
    """Height and width of a map C×H×W or of square tokens C×M; () for other tokens."""
    if len(shape) == 3:
        return shape[1:]
    side = math.isqrt(shape[1])
    return (side, side) if side * side == shape[1] else ()


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
    shapes: dict[str, Shape] = {}
    for name, shape in given.items():
        sizes = shape.shape if isinstance(shape, Tensor) else shape
        if not isinstance(sizes, Sequence) or not all(isinstance(size, int) for size in sizes):
            raise ShapeError(f"the {side}'s {name} has the shape {shape!r}; expected whole numbers such as (64, 8, 8)")
        shapes[name] = tuple(sizes)
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
