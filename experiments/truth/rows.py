"""Reads the benchmark's rows, so that predictors of a distiller's end can be studied without training.

>>> from rows import finals, read
>>> table = finals(read(), "resnet8")           # one line a distiller, the best first

``python experiments/truth/rows.py [ROWS]`` prints that table.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdzero_gp.common import interval

ROWS = Path(__file__).parent / "rows.jsonl"
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Final:
    """A distiller over its seeds: means of the final accuracies; ``half_width`` of the test accuracy's 95 % interval
    (NaN below three seeds); ``to_kd``: the mean over common seeds of the difference to ``kd`` on test images."""

    distiller: str
    kind: str
    expression: str
    factor: float
    seeds: int
    test: float
    half_width: float
    validation: float
    to_kd: float
    seconds: float


def read(path: Path = ROWS) -> list[dict[str, Any]]:
    """All rows, as they came; a last line that is not whole is left out. Raises ValueError for another one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(f"line {number} of {path} is damaged; take it out") from None
    return rows


def finals(rows: list[dict[str, Any]], student: str, epochs: float | None = None) -> list[Final]:
    """One line for each distiller that was trained to the end, the best mean on test images first."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        right = row["stage"] == "full" and row["student"] == student and epochs in (None, row["epochs"])
        if right and not row["reason"]:
            found.setdefault(row["distiller"], {})[row["seed"]] = row
    kd = found.get("kd", {})
    return sorted((_final(of_seed, kd) for of_seed in found.values()), key=lambda final: -final.test)


def _final(of_seed: dict[int, dict[str, Any]], kd: dict[int, dict[str, Any]]) -> Final:
    rows = list(of_seed.values())
    tests = [row["test_accuracy"] for row in rows]
    differences = [row["test_accuracy"] - kd[seed]["test_accuracy"] for seed, row in of_seed.items() if seed in kd]
    first = rows[0]
    return Final(
        first["distiller"], first["kind"], first["expression"], first["factor"], len(rows), statistics.fmean(tests),
        interval(tests) if len(tests) >= LEAST_SEEDS else math.nan,
        statistics.fmean(row["last_validation_accuracy"] for row in rows),
        statistics.fmean(differences) if differences else math.nan,
        statistics.fmean(row["seconds"] for row in rows),
    )  # fmt: skip


if __name__ == "__main__":
    everything = read(Path(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
    for name in dict.fromkeys(row["student"] for row in everything):
        print(f"{name}\n{'distiller':16}{'kind':10}{'factor':>7}{'seeds':>6}{'test %':>8}{'valid. %':>9}{'to kd':>7}")
        for f in finals(everything, name):
            print(f"{f.distiller:16}{f.kind:10}{f.factor:7g}{f.seeds:6}{100 * f.test:8.2f}{100 * f.validation:9.2f}"
                  f"{100 * f.to_kd:7.2f}")  # fmt: skip
