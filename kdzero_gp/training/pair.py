"""A teacher and a student side by side: what both expose, of which type, and what a comparison of it would need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from kdzero_gp.common import count_parameters
from kdzero_gp.compiler import pair_shapes
from kdzero_gp.compiler.shapes import PairShapes, adapters
from kdzero_gp.data.inputs import Inputs, channels
from kdzero_gp.data.resizing import resized
from kdzero_gp.families import TaskFamily
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models.taps import Tapped

# One seed for looking at networks; nothing that is looked at depends on their weights.
LOOKING = 0


@dataclass(frozen=True)
class Side:
    """Where one network's knowledge is read and its shape without the batch axis."""

    layer: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Knowledge:
    """One knowledge of a pair. ``type`` and ``adapter`` are empty where only one network has it; ``adapter`` is what
    a distiller needs that compares the tensors as they are (relations and attention maps may need none)."""

    name: str
    type: str
    teacher: Side | None
    student: Side | None
    adapter: str


@dataclass(frozen=True)
class PairDescription:
    """What ``describe_pair`` found."""

    teacher: str
    student: str
    teacher_parameters: int
    student_parameters: int
    knowledge: tuple[Knowledge, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON keeps it."""
        return asdict(self)


def tapped(
    network: str | nn.Module,
    classes: int,
    example: Inputs,
    taps: Mapping[str, str] | None = None,
    seed: int = LOOKING,
    family: TaskFamily = CLASSIFICATION,
) -> Any:
    """A network, by name with new weights drawn from ``seed`` or given, tapped for inputs like ``example``. Raises
    ModelError for what does not exist or has no usable layers."""
    if isinstance(network, str):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            network = family.build(network, classes, channels(example))
    return family.tap(network, example, taps or None, classes)


def describe_pair(
    teacher: str | nn.Module,
    student: str | nn.Module,
    *,
    classes: int,
    channels: int = 3,
    image_size: int | tuple[int, int] = 32,
    teacher_image_size: int = 0,
    teacher_taps: Mapping[str, str] | None = None,
    student_taps: Mapping[str, str] | None = None,
) -> PairDescription:
    """The taps of both networks with their shapes, the type of each knowledge that the pair shares and the adapter
    that it would need. Networks are names as for ``--teacher``, or modules.

    Raises ModelError for a network or layer that does not exist, ShapeError for a pair without common knowledge.

    >>> pair = describe_pair("resnet56", "resnet20", classes=100)
    >>> [(knowledge.name, knowledge.adapter) for knowledge in pair.knowledge[:3]]
    [('logits', 'none'), ('emb', 'none'), ('feat', 'none')]
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = torch.zeros(2, channels, height, width)
    reader = tapped(teacher, classes, resized(images, teacher_image_size), teacher_taps)
    learner = tapped(student, classes, images, student_taps)
    shapes = pair_shapes(learner.shapes, reader.shapes)
    both = dict.fromkeys([*reader.taps, *learner.taps])
    return PairDescription(
        _called(teacher),
        _called(student),
        count_parameters(reader),
        count_parameters(learner),
        tuple(_knowledge(name, reader, learner, shapes) for name in both),
    )


def _called(network: str | nn.Module) -> str:
    return network if isinstance(network, str) else type(network).__name__


def _knowledge(name: str, teacher: Tapped, student: Tapped, shapes: PairShapes) -> Knowledge:
    left, right = (
        Side(network.taps[name] or "(output)", network.shapes[name]) if name in network.taps else None
        for network in (teacher, student)
    )
    if name not in shapes.types:
        return Knowledge(name, "", left, right, "")
    return Knowledge(name, str(shapes.types[name]), left, right, str(adapters(shapes, name)[-1] or "none"))
