"""Counts what becomes of random distillers of a space, for the studies of the dense tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.compiler import Expression
from kdzero_gp.files import atomic_write

# So many trees by a seed, each with the number of its pair; and what became of one with its pair, by a seed of its own.
Trees = Callable[[int, int], Iterator[tuple[int, Expression]]]
Outcome = Callable[[Expression, int, int], str]


def counted(
    trees: Trees, outcome: Outcome, whole: int, seed: int, path: Path | None, part: int = 100
) -> dict[str, Any]:
    """The outcomes of ``whole`` trees with the first tree of each bad one, going on where ``path`` stopped, which is
    written after every ``part`` trees."""
    found: dict[str, Any] = {"seed": seed, "trees": 0, "outcomes": {}, "first": {}}
    if path is not None and path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["seed"] != seed:
            raise SystemExit(f"{path} was begun with --seed {found['seed']}; give that one, or another --out")
    for index, (pair, expression) in enumerate(trees(whole, seed)):
        if index < found["trees"]:
            continue
        result = outcome(expression, pair, index)
        found["outcomes"][result] = found["outcomes"].get(result, 0) + 1
        if result != "fine":
            found["first"].setdefault(result, f"pair {pair}, tree {index}: {expression}")
        found["trees"] = index + 1
        if path is not None and (found["trees"] % part == 0 or found["trees"] == whole):
            atomic_write(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def main(description: str | None, trees: Trees, outcome: Outcome) -> None:
    """Count the outcomes and print the first tree of each."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a json of the counts; the same command goes on from it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = counted(trees, outcome, arguments.trees, arguments.seed, arguments.out)
    for result, first in found["first"].items():
        print(f"{result}: {first}")
    for result, count in sorted(found["outcomes"].items(), key=lambda pair: -pair[1]):
        print(f"{count:6d} {result}")
