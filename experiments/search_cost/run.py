"""What does a search cost? The paper's Table 2 (iterations × population) on digits, and a projection for CIFAR-100.

Every cell is one ``kdzero-gp evolve`` from a new folder, all of it timed. The projection takes the seconds a birth of
a CIFAR-100 run (``--cifar RUN``), evaluations and screens together, divided by its workers.

    python experiments/search_cost/run.py --work /tmp/search_cost [--cifar RUN]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kdzero_gp.runner import RunSettings
from kdzero_gp.storage import Database

HERE = Path(__file__).parent
# (iterations, population): hours in the paper's Table 2, on one RTX 3090 Ti
PAPER = {(50, 20): 10, (100, 20): 21, (300, 20): 63, (100, 10): 11, (100, 30): 30}


def cell(generations, population, folder):
    """One whole command: its seconds, and what became of its births."""
    command = Path(sys.executable).parent / "kdzero-gp"
    start = time.perf_counter()
    sizes = ["--generations", str(generations), "--pop", str(population)]
    subprocess.run([command, "evolve", *sizes, "--out", folder], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    with Database.read(folder) as database:
        evaluations = database.evaluations()
        stages = database.stages()
        births = len(database.births())
    return {
        "generations": generations, "population": population, "births": births, "seconds": seconds,
        "trained": sum(not e.screen and not e.equivalent_to for e in evaluations),
        "equivalent": sum(bool(e.equivalent_to) for e in evaluations),
        "turned_away": sum(bool(e.screen) and not e.equivalent_to for e in evaluations),
        "stages": {name: {"count": count, "seconds": total} for name, (count, total) in stages.items()},
        "paper_hours": PAPER[generations, population],
    }  # fmt: skip


def projected(folder, workers):
    """Seconds a birth and a candidate of a CIFAR-100 run, and hours for the paper's 100 × 20."""
    with Database.read(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        births = [b for b in database.births() if b.duplicate_of is None]
        seconds = [s for s, _ in database.costs("evaluation")]
        trained = [e for e in database.evaluations() if not e.screen and not e.equivalent_to]
        stages = database.stages()
    count, total = stages["training"]
    each = sum(seconds) / len(births) / workers
    return {"pair": f"{settings.teacher} → {settings.student}", "births": len(births), "trained": len(trained),
            "training_s": total / count / workers, "median_s": statistics.median(seconds) / workers, "birth_s": each,
            "workers": workers, "hours_100x20": 2000 * each / 3600, "paper_hours": PAPER[100, 20]}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--cifar", type=Path, help="a run on CIFAR-100 to project from")
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.exists() else {"digits": []}
    known = {(row["generations"], row["population"]) for row in found["digits"]}
    for generations, population in sorted(PAPER, key=lambda sizes: sizes[0] * sizes[1]):
        if (generations, population) not in known:
            folder = given.work / f"{generations}x{population}"
            found["digits"].append(cell(generations, population, folder))
            print(json.dumps(found["digits"][-1]), flush=True)
            given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.cifar:
        found["cifar100"] = projected(given.cifar, os.cpu_count() or 1)
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found.get("cifar100"), indent=1))


if __name__ == "__main__":
    main()
