"""The types of a distiller's values.

A transform works on a *pair*: the student's tensor and the teacher's, of one type. A type says which axes the
tensors have (their rank) and what the numbers are (their kind). Both are static, so a tree that type-checks cannot
fail on a shape and cannot feed unnormalised values to a divergence.
"""

from __future__ import annotations

from dataclasses import dataclass

# rank -> the axes a tensor of that rank has, as written in messages
RANKS = {
    "matrix": "N×C matrix",
    "tokens": "N×C×M tokens",
    "map": "N×C×H×W map",
    "plane": "N×1×H×W map",
    "relation": "N×N relation",
    "columns": "C×N columns",
}
# rank -> the named axes over which a tensor of that rank may be normalised
AXES = {
    "matrix": ("N", "C"),
    "tokens": ("N", "C", "HW"),
    "map": ("N", "C", "HW"),
    "plane": ("N", "HW"),
    "relation": ("C",),
    "columns": (),
}
# tensor dimensions behind a named axis, by rank
DIMENSIONS = {
    ("matrix", "N"): (0,),
    ("matrix", "C"): (1,),
    ("tokens", "N"): (0,),
    ("tokens", "C"): (1,),
    ("tokens", "HW"): (2,),
    ("map", "N"): (0,),
    ("map", "C"): (1,),
    ("map", "HW"): (2, 3),
    ("plane", "N"): (0,),
    ("plane", "HW"): (2, 3),
    ("relation", "C"): (1,),
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
        what = {"real": "real numbers", "logits": "logits"}.get(self.kind)
        if what is None:
            noun = "probabilities" if self.kind == "probability" else "log-probabilities"
            what = f"{noun} over {self.axis}"
        return f"{RANKS[self.rank]} of {what}"


@dataclass(frozen=True, order=True)
class LossType:
    """``sample``: one loss for each sample (N,); ``batch``: losses that belong to no single sample;
    ``scalar``: one number for the batch; ``loss``: a scalar with its magnitude, what a distiller returns."""

    name: str

    def __str__(self) -> str:
        return {
            "sample": "a loss for each sample",
            "batch": "a loss for the whole batch",
            "scalar": "a calibrated loss",
            "loss": "a weighted loss",
        }[self.name]


@dataclass(frozen=True, order=True)
class ConstantType:
    """A number out of a listed set: a ``temperature`` or a ``magnitude``."""

    name: str

    def __str__(self) -> str:
        return f"a {self.name}"


ValueType = PairType | LossType | ConstantType

SAMPLE = LossType("sample")
BATCH = LossType("batch")
SCALAR = LossType("scalar")
LOSS = LossType("loss")
TEMPERATURE = ConstantType("temperature")
MAGNITUDE = ConstantType("magnitude")
LOGITS = PairType("matrix", "logits")

DISTRIBUTIONS = ("probability", "log_probability")


def pairs(*ranks: str, kinds: tuple[str, ...] = ("real", "logits", *DISTRIBUTIONS)) -> list[PairType]:
    """Every pair type with one of ``ranks`` and one of ``kinds``, in a fixed order.

    >>> [str(pair) for pair in pairs("matrix", kinds=("real", "logits"))]
    ['N×C matrix of real numbers', 'N×C matrix of logits']
    """
    found = []
    for rank in ranks:
        for kind in kinds:
            if kind in DISTRIBUTIONS:
                found += [PairType(rank, kind, axis) for axis in AXES[rank]]
            elif kind == "real" or rank == "matrix":
                found.append(PairType(rank, kind))
    return found
