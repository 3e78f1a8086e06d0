"""The table of blood cells: a student alone, with tuned published methods, and with an evolved distiller.

    python experiments/detection/run.py --data bccd.zip --teacher-weights teacher/network.safetensors --out results

Everything goes on where it was interrupted. ``rows.csv`` has one line for each finished training that is compared.
Validation images choose distillers and magnitudes; test images are read at the end of each training. Heads are not
inherited: every student starts from its own random weights, the same for all distillers of one seed.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import kdzero_gp

PUBLISHED = ("zoo:pkd", "zoo:cwd_fpn", "zoo:fgd", "zoo:detkds", "zoo:crosskd")
FACTORS = (0.3, 1.0, 3.0)
MEASURES = ("ap", "ap50", "detection_loss")


def searched(arguments: argparse.Namespace) -> kdzero_gp.Run:
    """The run of the search, begun or gone on with."""
    folder = arguments.out / "run"
    if (folder / "run.sqlite").exists():
        return kdzero_gp.Run(folder).resume()
    return kdzero_gp.evolve(
        arguments.teacher, arguments.student, arguments.data, task="detection", out=folder,
        teacher_weights=arguments.teacher_weights, generations=arguments.births // arguments.pop, pop=arguments.pop,
        workers=arguments.workers, seed=arguments.seed,
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, object]]:
    """One row for each training that a comparison has finished."""
    found: list[dict[str, object]] = []
    for path in sorted(folder.glob("trainings/*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        name, _, seed = path.parent.name.rpartition("-seed")
        measured = {f"{part}_{m}": result.get(part, {}).get(m) for part in ("validation", "test") for m in MEASURES}
        found.append({"distiller": name, "seed": int(seed), **measured, "seconds": result.get("seconds")})
    return found


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
    run = searched(arguments)
    comparison = kdzero_gp.compare(
        arguments.teacher, arguments.student, [*PUBLISHED, run.best], arguments.data, task="detection",
        teacher_weights=arguments.teacher_weights, factors=FACTORS, seeds=arguments.seeds, epochs=arguments.epochs,
        workers=arguments.workers, out=arguments.out / "comparison",
    )  # fmt: skip
    print(comparison)
    table = rows(arguments.out / "comparison")
    with (arguments.out / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
