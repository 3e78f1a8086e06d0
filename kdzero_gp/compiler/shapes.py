"""The shapes of a teacher-student pair, and what they mean for a distiller: knowledge types and adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from kdzero_gp.compiler.knowledge import AT_ANCHORS, CLASSIFICATION_KNOWLEDGE, KnowledgeSpec, KnowledgeTable, spec_of
from kdzero_gp.errors import ShapeError
from primitives import CATALOGUE, PairType
from primitives.types import RANKS

__all__ = ["CLASSIFICATION_KNOWLEDGE", "Adapter", "KnowledgeSpec", "PairShapes", "Shape", "pair_shapes"]

Shape = tuple[int, ...]
# The batch size that shapes are traced with: a prime that is no network's size, so that comments can show it as N.
TRACED_BATCH = 1009


@dataclass(frozen=True)
class PairShapes:
    """The per-sample shapes (no batch axis) of what a student and a teacher expose, by knowledge; and the table of
    what this may be."""

    student: Mapping[str, Shape]
    teacher: Mapping[str, Shape]
    knowledge: KnowledgeTable = field(default_factory=lambda: CLASSIFICATION_KNOWLEDGE)

    @cached_property
    def types(self) -> dict[str, PairType]:
        """The knowledge that both expose, with its type. Tokens whose number is a square are the map they were cut
        from, so that a vision transformer and a convolutional network can be compared; other tokens make the pair
        one of tokens."""
        types = {}
        for name in self.student:
            spec = spec_of(name, self.knowledge)
            if spec is not None and name in self.teacher and not self._other_anchors(name, spec):
                types[name] = PairType(_rank(spec, (self.student[name], self.teacher[name])), spec.kind)
        return types

    def _other_anchors(self, name: str, spec: KnowledgeSpec) -> bool:
        """Whether both sides have this for anchors that do not stand for each other."""
        return spec.ranks[0] in AT_ANCHORS and self.student[name][1:] != self.teacher[name][1:]

    def adapted(self, name: str) -> bool:
        """Whether a student's knowledge may be brought to the teacher's shape."""
        spec = spec_of(name, self.knowledge)
        return spec is not None and spec.adapted

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


def _rank(spec: KnowledgeSpec, shapes: Sequence[Shape]) -> str:
    """The rank in which both sides can be compared."""
    if spec.ranks[0] in AT_ANCHORS:
        return spec.ranks[0]
    if "matrix" in spec.ranks and all(len(shape) == 1 for shape in shapes):
        return "matrix"
    in_space = all(len(shape) > 1 for shape in shapes)
    if "map" in spec.ranks and in_space and all(_side_of(shape) for shape in shapes):
        return "map"
    if "tokens" in spec.ranks and in_space:
        return "tokens"
    wanted = " or ".join(spec.ranks)
    raise ShapeError(f"shapes {shapes[0]} and {shapes[1]} per sample are not a pair of one form; expected {wanted}")


def _side_of(shape: Shape) -> Shape:
    """Height and width of a map C×H×W or of square tokens C×M; () for other tokens."""
    if len(shape) == 3:
        return shape[1:]
    side = math.isqrt(shape[1])
    return (side, side) if side * side == shape[1] else ()


def pair_shapes(
    student: Mapping[str, Any], teacher: Mapping[str, Any], knowledge: KnowledgeTable | None = None
) -> PairShapes:
    """Read shapes given as tuples, with or without the batch axis, or as tensors (which have it).

    ``knowledge`` says what each name or pattern may be (default: classification's logits, emb, feat, feat1, …); other
    names are left out of the pair. Raises ``ShapeError`` where a shape is none that its knowledge may have per
    sample, or the numbers of classes differ.
    """
    table = CLASSIFICATION_KNOWLEDGE if knowledge is None else knowledge
    shapes = PairShapes(_per_sample(student, "student", table), _per_sample(teacher, "teacher", table), table)
    for name, pair_type in shapes.types.items():
        classes = shapes.student[name][0], shapes.teacher[name][0]
        if pair_type.kind == "logits" and classes[0] != classes[1]:
            raise ShapeError(
                f"the student has {classes[0]} classes and the teacher {classes[1]}; "
                "build both for the classes of the data"
            )
    if not shapes.types:
        raise ShapeError("the student and the teacher expose no common knowledge; name a tap on both")
    return shapes


def _per_sample(given: Mapping[str, Any], side: str, knowledge: KnowledgeTable) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for name, shape in given.items():
        sizes = shape.shape if isinstance(shape, Tensor) else shape
        if not isinstance(sizes, Sequence) or not all(isinstance(size, int) for size in sizes):
            raise ShapeError(f"the {side}'s {name} has the shape {shape!r}; expected whole numbers such as (64, 8, 8)")
        shapes[name] = tuple(sizes)
    specs = {name: spec for name in shapes if (spec := spec_of(name, knowledge)) is not None}
    batched = any(isinstance(shape, Tensor) for shape in given.values()) or _have_batch_axis(shapes, specs)
    if batched:
        shapes = {name: shape[1:] for name, shape in shapes.items()}
    for name, spec in specs.items():
        if len(shapes[name]) not in spec.sizes or any(size < 1 for size in shapes[name]):
            raise ShapeError(f"the {side}'s {name} has shape {shapes[name]} per sample; expected {spec.shapes}")
    return shapes


def _have_batch_axis(shapes: Mapping[str, Shape], specs: KnowledgeTable) -> bool:
    """Whether some shape is legal only with a batch axis, and none only without."""
    legal = [(len(shapes[name]) in spec.sizes, len(shapes[name]) - 1 in spec.sizes) for name, spec in specs.items()]
    return (False, True) in legal and (True, False) not in legal


@lru_cache(maxsize=16384)
def result_shape(name: str, shape: Shape, constants: tuple[float, ...]) -> Shape:
    """The shape of a transform's result, found by running the transform without data."""
    operation = CATALOGUE[name]
    x = torch.empty(shape, device="meta")
    extra: list[Any] = list(constants)
    if operation.noise is not None:
        extra.append(operation.noise(x))
    if "labels" in operation.needs:
        extra.append(torch.empty((shape[0], *shape[2:]), dtype=torch.long, device="meta"))
    return tuple(operation.function(x, *extra).shape)


def agrees(axes: tuple[str, ...], rank: str, student: Shape, teacher: Shape) -> bool:
    """Whether both sides have one size along ``axes``."""
    if "*" in axes:
        return student == teacher
    return all(
        student[dimension] == teacher[dimension] for axis in axes for dimension in RANKS[rank].dimensions.get(axis, ())
    )


@dataclass(frozen=True)
class Adapter:
    """What brings a student's leaf to the teacher's shape: pooling to ``size`` (or none) and a learnable map from
    ``channels[0]`` to ``channels[1]`` channels (or none)."""

    knowledge: str
    rank: str
    size: Shape | None
    channels: tuple[int, int] | None

    def __str__(self) -> str:
        """What it does to the student's tensor, in words.

        >>> str(Adapter("feat", "map", (4, 4), (16, 512)))
        'pooled to 4×4 + 1×1 conv 16→512'
        """
        pooled = [] if self.size is None else ["pooled to " + "×".join(map(str, self.size))]
        kind = "linear" if self.rank == "matrix" else "1×1 conv"
        learnt = [] if self.channels is None else [f"{kind} {self.channels[0]}→{self.channels[1]}"]
        return " + ".join(pooled + learnt)


def adapters(shapes: PairShapes, name: str) -> list[Adapter | None]:
    """The ways to bring a student's leaf nearer to the teacher's, the least first: nothing, pooling, everything."""
    student, teacher = shapes.leaf(name, "student"), shapes.leaf(name, "teacher")
    if not shapes.adapted(name) or student == teacher:
        return [None]
    rank = shapes.types[name].rank
    channels = (student[0], teacher[0]) if student[0] != teacher[0] else None
    size = teacher[1:] if student[1:] != teacher[1:] else None
    choices: list[Adapter | None] = [None]
    if size is not None and channels is not None:
        choices.append(Adapter(name, rank, size, None))
    return [*choices, Adapter(name, rank, size, channels)]
