"""The generated pages of the documentation: ``python -m kdzero_gp.docs`` writes them, ``--check`` fails when they
are stale. They come from the declarations alone."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from kdzero_gp import draw
from kdzero_gp.compiler import zoo
from primitives import CATALOGUE, MAGNITUDES, TEMPERATURES, Operation, PairType
from primitives.types import RANKS

FOLDER = Path(__file__).resolve().parent.parent / "docs"
_ROLES = {
    "transform": "Transforms: the same function on both sides of a pair",
    "distance": "Distances: (student, teacher) to losses",
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


def catalogue_page() -> str:
    """Every operation with formula, shapes, types and source."""
    listed = ", ".join(f"{t:g}" for t in TEMPERATURES), ", ".join(f"{m:g}" for m in MAGNITUDES)
    lines = [
        "# Catalogue of operations",
        "",
        "Written by `python -m kdzero_gp.docs` from the declarations in `primitives/`; do not edit.",
        "",
        f"Temperatures T: {listed[0]}. Magnitudes γ: {listed[1]}.",
    ]
    for role, title in _ROLES.items():
        lines += ["", f"## {title}", "", "| name | formula | shapes | defined for | source |", "|---|---|---|---|---|"]
        for operation in CATALOGUE.of_role(role):
            rest = " ".join(line.strip() for line in (inspect.getdoc(operation.function) or "").splitlines()[2:])
            cells = [f"`{operation.name}`", operation.formula, rest, _takes(operation), operation.source]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def zoo_page() -> str:
    """Every published method with its expression, in words, and where it was published."""
    lines = [
        "# Zoo of published distillers",
        "",
        "Written by `python -m kdzero_gp.docs`; do not edit. `kdzero_gp.zoo[name]` is the expression.",
        "",
        "Methods with networks of their own or memory banks (CRD, VID, FT, DML) are no functions of two tensors and",
        "therefore not here.",
        "",
        "| name | expression | in words | reference |",
        "|---|---|---|---|",
    ]
    for entry in zoo.entries.values():
        lines.append(f"| `{entry.name}` | `{entry.text}` | {draw.describe(entry.expression)} | {entry.reference} |")
    return "\n".join(lines) + "\n"


PAGES = {"catalogue.md": catalogue_page, "zoo.md": zoo_page}


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which are stale. Returns the exit code."""
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if "--check" in arguments and stale:
        print(f"{', '.join(stale)} in {FOLDER} are stale; run: python -m kdzero_gp.docs")
        return 1
    print(f"wrote {', '.join(stale)}" if stale else "all pages are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
