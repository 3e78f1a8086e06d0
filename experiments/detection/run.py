"""The table of blood cells: a student alone, with tuned published methods, and with an evolved distiller.

    python experiments/detection/run.py --data bccd.zip --teacher-weights experiments/detection/teacher.safetensors \
        --out results

Published methods come first, then the search, then its winner, so that a table is there early; everything goes on where
it was interrupted. ``rows.csv`` has one line for each finished training that is compared and is written after each.
Validation images choose distillers and magnitudes; test images are read at the end of each training. Heads are not
inherited: every student starts from its own random weights, the same for all distillers of one seed.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import kdzero_gp
from kdzero_gp.files import atomic_write
from kdzero_gp.progress import Progress

PUBLISHED = ("zoo:pkd", "zoo:cwd_fpn", "zoo:fgd", "zoo:detkds", "zoo:crosskd")
FACTORS = (0.3, 1.0, 3.0)
MEASURES = ("ap", "ap50", "detection_loss")


# The comparison decides, so the search races its best for one short training alone and prunes nothing.
NO_RACE = {"race_top": 1, "race_seeds": 1, "race_epochs": 1, "prune": 0, "fresh_seeds": 0}


def searched(arguments: argparse.Namespace, progress: Progress) -> kdzero_gp.Run:
    """The run of the search, begun or gone on with."""
    folder = arguments.out / "run"
    if (folder / "run.sqlite").exists():
        return kdzero_gp.Run(folder).resume(workers=arguments.workers, progress=progress)
    return kdzero_gp.evolve(
        arguments.teacher, arguments.student, arguments.data, task="detection", out=folder,
        teacher_weights=arguments.teacher_weights, generations=arguments.births // arguments.pop, pop=arguments.pop,
        workers=arguments.workers, seed=arguments.seed, threads=1, progress=progress, **NO_RACE,
    )  # fmt: skip


def compared(distillers: list[Any], arguments: argparse.Namespace, progress: Progress) -> Any:
    """The comparison with these distillers; what was trained before is taken."""
    return kdzero_gp.compare(
        arguments.teacher, arguments.student, distillers, arguments.data, task="detection",
        teacher_weights=arguments.teacher_weights, factors=FACTORS, seeds=arguments.seeds, epochs=arguments.epochs,
        workers=arguments.workers, out=arguments.out / "comparison", progress=progress,
    )  # fmt: skip


class Writing(Progress):
    """Tells what is noted, and writes the rows whenever something is finished."""

    def __init__(self, out: Path):
        self.out = out

    def note(self, text: str) -> None:
        """Print at once, since the run may be killed."""
        print(text, flush=True)

    def begin(self, what: str, total: int) -> None:
        """A stage."""
        self.note(f"{time.strftime('%H:%M:%S')} {what}: {total}")

    def advance(self, done: int = 1, **fields: object) -> None:
        """Something is finished."""
        write(rows(self.out / "comparison"), self.out / "rows.csv")


def rows(folder: Path) -> list[dict[str, object]]:
    """One row for each training that a comparison has finished."""
    found: list[dict[str, object]] = []
    for path in sorted(folder.glob("trainings/*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        name, _, seed = path.parent.name.rpartition("-seed")
        measured = {f"{part}_{m}": result.get(part, {}).get(m) for part in ("validation", "test") for m in MEASURES}
        found.append({"distiller": name, "seed": int(seed), **measured, "seconds": result.get("seconds")})
    return found


def write(table: list[dict[str, object]], path: Path) -> None:
    """The rows as a file, once there are some."""
    if not table:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    atomic_write(path, text.getvalue())


def main() -> None:
    """Search, compare, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", default="fcos_mobilenet_v2")
    parser.add_argument("--teacher-weights", required=True)
    parser.add_argument("--student", default="fcos_small_8")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--births", type=int, default=300)
    parser.add_argument("--pop", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    progress = Writing(arguments.out)
    print(compared([*PUBLISHED], arguments, progress), flush=True)
    run = searched(arguments, progress)
    print(compared([*PUBLISHED, run.best], arguments, progress), flush=True)
    write(rows(arguments.out / "comparison"), arguments.out / "rows.csv")


if __name__ == "__main__":
    main()
