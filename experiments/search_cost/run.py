"""What does a search cost? The paper's Table 2 (iterations × population) on digits, and a projection for CIFAR-100.

For each population one ``kdzero-gp evolve`` of the most iterations, from a new folder, all of it timed. A search of
fewer iterations has the same births as far as it goes, so its time is read off the same run: preparation and births up
to there, and the race. The projection takes the seconds a birth of a CIFAR-100 run (``--cifar RUN``), evaluations and
screens together, divided by its workers.

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

from kdzero_gp.errors import KdzeroError
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database

HERE = Path(__file__).parent
ITERATIONS, POPULATIONS = (50, 100, 300), (10, 20, 30)
# (iterations, population): hours in the paper's Table 2, on one RTX 3090 Ti
PAPER = {(50, 20): 10, (100, 20): 21, (300, 20): 63, (100, 10): 11, (100, 30): 30}


def births_of(folder):
    """How many births a run has by now; 0 before it has a database."""
    try:
        with Database.read(folder) as database:
            return len(database.births())
    except KdzeroError:
        return 0


def column(population, iterations, folder):
    """One whole command, and the rows of the table that can be read off it."""
    words = ["--generations", iterations[-1], "--pop", population, "--out", folder]
    start = time.perf_counter()
    running = subprocess.Popen(
        [Path(sys.executable).parent / "kdzero-gp", "evolve", *map(str, words)], stdout=subprocess.DEVNULL
    )
    at = {}
    while running.poll() is None:
        time.sleep(0.5)
        count, now = births_of(folder), time.perf_counter() - start
        for generations in iterations:
            if count >= generations * population:
                at.setdefault(generations, now)
    seconds = time.perf_counter() - start
    if running.returncode:
        raise SystemExit(f"the search in {folder} ended with {running.returncode}")
    race = seconds - at[iterations[-1]]
    with Database.read(folder) as database:
        known = {e.digest: e for e in database.evaluations()}
        births = database.births()
    rows = []
    for generations in iterations:
        part = births[: generations * population]
        found = [known[birth.digest] for birth in part if birth.duplicate_of is None]
        rows.append({
            "generations": generations, "population": population, "births": len(part),
            "seconds": at[generations] + race, "trained": sum(not e.screen and not e.equivalent_to for e in found),
            "equivalent": sum(bool(e.equivalent_to) for e in found),
            "predicted": sum(e.screen == "surrogate" and not e.equivalent_to for e in found),
            "turned_away": sum(e.screen not in ("", "surrogate") and not e.equivalent_to for e in found),
            "paper_hours": PAPER.get((generations, population)),
        })  # fmt: skip
    return rows


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
    parser.add_argument("--populations", type=int, nargs="*", default=list(POPULATIONS))
    parser.add_argument("--iterations", type=int, nargs="+", default=list(ITERATIONS))
    parser.add_argument("--cifar", type=Path, help="a run on CIFAR-100 to project from")
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.exists() else {"digits": []}
    known = {row["population"] for row in found["digits"]}
    for population in given.populations:
        if population not in known:
            found["digits"] += column(population, given.iterations, given.work / f"{given.iterations[-1]}x{population}")
            print(json.dumps(found["digits"][-len(given.iterations) :], indent=1), flush=True)
            given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.cifar:
        found["cifar100"] = projected(given.cifar, os.cpu_count() or 1)
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found.get("cifar100"), indent=1))


if __name__ == "__main__":
    main()
