"""The types of a distiller's values.

A transform works on a *pair*: the student's tensor and the teacher's, of one type. A type says which axes the
tensors have (their rank) and what the numbers are (their kind). Both are static, so a tree that type-checks cannot
fail on a shape and cannot feed unnormalised values to a divergence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """Which axes a tensor has: ``text`` as messages write it, and the tensor dimensions behind each named axis over
    which it may be normalised. ``classes``: dimension 1 may hold classes, so that the numbers may be logits."""

    text: str
    dimensions: Mapping[str, tuple[int, ...]]
    classes: bool = False

    @property
    def axes(self) -> tuple[str, ...]:
        """The named axes."""
        return tuple(self.dimensions)


RANKS = {
    "matrix": Rank("N×C matrix", {"N": (0,), "C": (1,)}, classes=True),
    "tokens": Rank("N×C×M tokens", {"N": (0,), "C": (1,), "HW": (2,)}, classes=True),
    "map": Rank("N×C×H×W map", {"N": (0,), "C": (1,), "HW": (2, 3)}, classes=True),
    "plane": Rank("N×1×H×W map", {"N": (0,), "HW": (2, 3)}),
    "relation": Rank("N×N relation", {"C": (1,)}),
    "columns": Rank("C×N columns", {}),
    "anchors": Rank("N×C×M anchors", {}, classes=True),
    "boxes": Rank("N×4×M boxes", {}),
    "grid": Rank("N×4×M grid", {}),
    "proposals": Rank("N×4×M proposals", {}),
}


@dataclass(frozen=True, order=True)
class PairType:
    """A student tensor and a teacher tensor of one ``rank`` and one ``kind``.

    ``kind`` is ``real``, ``logits`` (real numbers of which each stands for a class, so that a label can index
    them), ``probability`` or ``log_probability``; the last two are normalised over ``axis``.
    """

    rank: str
    kind: str = "real"
    axis: str = ""

    def __str__(self) -> str:
        if self.kind in DISTRIBUTIONS:
            noun = f"{'probabilities' if self.kind == 'probability' else 'log-probabilities'} over {self.axis}"
        else:
            noun = {"real": "real numbers", "logits": "logits"}[self.kind]
        return f"{RANKS[self.rank].text} of {noun}"


@dataclass(frozen=True, order=True)
class LossType:
    """``sample``: one loss for each sample (N,); ``place``: one for each place
    (N×H×W); ``anchor``: one for each anchor (N×M); ``batch``: losses that belong to no single sample;
    ``scalar``: one number for the batch; ``loss``: a scalar with its magnitude, what a distiller returns."""

    name: str

    def __str__(self) -> str:
        return {
            "sample": "a loss for each sample",
            "place": "a loss for each place",
            "anchor": "a loss for each anchor",
            "batch": "a loss for the whole batch",
            "scalar": "a calibrated loss",
            "loss": "a weighted loss",
        }[self.name]


@dataclass(frozen=True, order=True)
class WeightType:
    """A number ≥ 0 for each place (N×H×W) or ``anchor`` (N×M), from the teacher, the labels and, where that is said,
    the student. It has no gradient."""

    name: str

    def __str__(self) -> str:
        return f"a weight for each {'anchor' if self.name == 'anchor' else 'place'}"


@dataclass(frozen=True, order=True)
class LevelType:
    """A map of the teacher as the network gives it: what weights of places are made for."""

    name: str

    def __str__(self) -> str:
        return "a level of the teacher's pyramid as it is"


@dataclass(frozen=True, order=True)
class ConstantType:
    """A number out of a listed set: a ``temperature`` or a ``magnitude``."""

    name: str

    def __str__(self) -> str:
        return f"a {self.name}"


ValueType = PairType | LossType | WeightType | LevelType | ConstantType

SAMPLE = LossType("sample")
PLACE = LossType("place")
WEIGHT = WeightType("weight")
ANCHOR = LossType("anchor")
ANCHOR_WEIGHT = WeightType("anchor")
LEVEL = LevelType("level")
BATCH = LossType("batch")
SCALAR = LossType("scalar")
LOSS = LossType("loss")
TEMPERATURE = ConstantType("temperature")
MAGNITUDE = ConstantType("magnitude")
LOGITS = PairType("matrix", "logits")
MAP_LOGITS = PairType("map", "logits")

DISTRIBUTIONS = ("probability", "log_probability")


def pairs(*ranks: str, kinds: tuple[str, ...] = ("real", "logits", *DISTRIBUTIONS)) -> list[PairType]:
    """Every pair type with one of ``ranks`` and one of ``kinds``, in a fixed order.

    >>> [str(pair) for pair in pairs("matrix", kinds=("real", "logits"))]
    ['N×C matrix of real numbers', 'N×C matrix of logits']
    """
    types = []
    for rank in ranks:
        for kind in kinds:
            if kind in DISTRIBUTIONS:
                types += [PairType(rank, kind, axis) for axis in RANKS[rank].axes]
            elif kind == "real" or RANKS[rank].classes:
                types.append(PairType(rank, kind))
    return types
