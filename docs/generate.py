"""The generated pages of the documentation, and the defaults that the help shows: ``python docs/generate.py`` writes
them, ``--check`` fails when they are stale. They come from the declarations alone."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdzero_gp import cli, draw
from kdzero_gp.cli.defaults import FILE, defaults_file
from kdzero_gp.compiler import zoo
from primitives import BOXES, CATALOGUE, LEVEL, MAGNITUDES, OF_STUDENT, TEMPERATURES, Operation, PairType
from primitives.types import RANKS

FOLDER = Path(__file__).resolve().parent
_ROLES = {
    "transform": "Transforms: the same function on both sides of a pair",
    "distance": "Distances: (student, teacher) to losses",
    "weight": "Weights of places and anchors, from the teacher and the labels",
    "weighing": "Weighted means and sums over places and anchors",
    "calibration": "Calibrations: the losses of samples to one number",
    "combination": "Combinations of losses",
}


def _takes(operation: Operation) -> str:
    """The ranks and kinds that an operation is defined for, in short."""
    firsts = [overload[0] for overload in operation.overloads]
    pairs = [first for first in firsts if isinstance(first, PairType)]
    if not pairs:
        return ", ".join(dict.fromkeys(str(first) for first in firsts))
    ranks = [rank for rank in RANKS if any(pair.rank == rank for pair in pairs)]
    kinds = list(dict.fromkeys(pair.kind.replace("_", "-") for pair in pairs))
    return f"{', '.join(ranks)}: {', '.join(kinds)}"


# Two samples with two channels; maps have one row of three columns.
_MATRIX = [[1.0, -2.0], [0.5, 3.0]]
_BOXES = [[[0.0, 0.0, 0.5, 1.0, 0.0]], [[0.5, 0.0, 1.0, 1.0, 1.0]]]
_MAP = [[[[1.0, -2.0, 0.5]], [[3.0, 0.0, -1.0]]], [[[2.0, 1.0, 0.0]], [[-1.0, 4.0, 0.5]]]]


def _example_input(given: PairType) -> Tensor:
    """The example tensor of a type: the numbers above, normalised where the type is a distribution."""
    x = torch.tensor(_MATRIX if given.rank in ("matrix", "relation", "columns") else _MAP)
    if given.rank == "plane":
        x = x[:, :1]
    if given.rank in ("tokens", "anchors"):
        x = x.flatten(2)
    if given.rank in ("boxes", "grid"):
        x = torch.tensor([[[0.0], [0.0], [0.5], [1.0]], [[0.2], [0.0], [1.0], [0.5]]])
    if given.axis:
        dimensions = RANKS[given.rank].dimensions[given.axis]
        x = (
            torch.log_softmax(x.flatten(2), 2).view_as(x)
            if len(dimensions) > 1
            else torch.log_softmax(x, dimensions[0])
        )
    return x.exp() if given.kind == "probability" else x


def _written(x: Tensor) -> str:
    """A tensor in two decimals, its samples apart."""
    rows = x.reshape(x.shape[0], -1).tolist() if x.dim() > 1 else [x.reshape(-1).tolist()]
    return "; ".join(" ".join(f"{number:.2f}".replace("-0.00", "0.00") for number in row) for row in rows)


def _example(operation: Operation) -> str:
    """An input and its value. Distances compare the example with its double (distributions: with its reversal)."""
    labels = torch.tensor([0, 1])
    arguments: tuple[Any, ...]
    if operation.role == "combination":
        return f"2, 3 → {float(operation.function(torch.tensor(2.0), 3.0)):g}"
    if operation.role == "calibration":
        logits, losses = torch.tensor(_MATRIX), torch.tensor([1.0, 2.0])
        needed = {"student_logits": logits, "teacher_logits": 2.0 * logits, "labels": labels}
        return f"1 2 → {float(operation.function(losses, *(needed[name] for name in operation.needs))):.2f}"
    if operation.role == "weighing":
        losses, weights = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.0, 0.0]])
        more, units = ((weights,), " of positives 1 1 0") if operation.needs else ((), "")
        return f"1 2 3 under 1 1 0{units} → {float(operation.function(losses, weights, *more)):g}"
    given = next(overload[0] for overload in operation.overloads)
    if given == LEVEL:
        given = PairType("map")
    assert isinstance(given, PairType)
    x = _example_input(given)
    if operation.dense:
        labels = torch.tensor(_BOXES if operation.dense == BOXES else [[[0, 0, 1]], [[1, 1, -1]]])
    if operation.role == "weight":
        sides = (x, torch.zeros_like(x)) if OF_STUDENT in operation.needs else (x,)
        against = " and 0" if OF_STUDENT in operation.needs else ""
        return f"{_written(x)}{against} → {_written(operation.function(*sides, labels))}"
    if operation.role == "distance":
        teacher = x.flip(1) if given.axis else 2.0 * x
        more = (given,) if operation.specialise else ()
        return f"{_written(x)} → {_written(operation.function(x, teacher, *more))}"
    arguments = (2.0,) * len(operation.parameters) + ((labels,) if operation.needs else ())
    if operation.noise is not None:
        torch.manual_seed(0)
        arguments += (operation.noise(x),)
    return f"{_written(x)} → {_written(operation.function(x, *arguments))}"


def catalogue_page() -> str:
    """Every operation with formula, shapes, types and source."""
    listed = ", ".join(f"{t:g}" for t in TEMPERATURES), ", ".join(f"{m:g}" for m in MAGNITUDES)
    lines = [
        "# Catalogue of operations",
        "",
        "Written by `python docs/generate.py` from the declarations in `primitives/`; do not edit.",
        "",
        f"Temperatures T: {listed[0]}. Magnitudes γ: {listed[1]}.",
    ]
    for role, title in _ROLES.items():
        header = "| name | formula | shapes | defined for | example (T = 2; samples apart by ;) | source |"
        lines += ["", f"## {title}", "", header, "|---|---|---|---|---|---|"]
        for operation in CATALOGUE.of_role(role):
            rest = " ".join(line.strip() for line in (inspect.getdoc(operation.function) or "").splitlines()[2:])
            cells = [f"`{operation.name}`", operation.formula, rest, _takes(operation), _example(operation)]
            cells.append(operation.source)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def zoo_page() -> str:
    """Every published method with its expression, in words, and where it was published."""
    lines = [
        "# Zoo of published distillers",
        "",
        "Written by `python docs/generate.py`; do not edit. `kdzero_gp.zoo[name]` is the expression.",
        "",
        "Methods with networks of their own or memory banks (CRD, VID, FT, DML) are not functions of two tensors and",
        "therefore not here.",
        "",
        "On pairs that label every place, no method sees the student's logits where a place has no label (published",
        "code mostly counts such pixels): the teacher's stand there, softmax over space is over the labelled places,",
        "and means over places are over those.",
        "",
        "| name | expression | in words | reference | what differs from it |",
        "|---|---|---|---|---|",
    ]
    for entry in zoo.entries.values():
        words = draw.describe(entry.expression, entry.knowledge)
        lines.append(f"| `{entry.name}` | `{entry.text}` | {words} | {entry.reference} | {entry.differs} |")
    return "\n".join(lines) + "\n"


PAGES = {
    FOLDER / "catalogue.md": catalogue_page,
    FOLDER / "zoo.md": zoo_page,
    Path(cli.__file__).parent / FILE: defaults_file,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which are stale. Returns the exit code."""
    stale = []
    for path, page in PAGES.items():
        text = page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if "--check" in arguments and stale:
        print(f"{', '.join(stale)} are stale; run: python docs/generate.py")
        return 1
    print(f"wrote {', '.join(stale)}" if stale else "all pages are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
