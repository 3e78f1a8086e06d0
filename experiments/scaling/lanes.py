"""What do lanes cost in quality?

Searches of digits, by the task's own proxy but for fewer births and half its epochs, with 1, 5, 20 and 80 lanes, all of
a seed on one prepared pair, without published methods in the first population and without a race: the fittest distiller
after the same number of births, paired by seed. More lanes are more births that know nothing of each other. One row a
search in ``lanes.jsonl``; a second start goes on.

    python experiments/scaling/lanes.py --work FOLDER
    python experiments/scaling/lanes.py --work FOLDER --seeds        # the table of what there is
"""

import argparse
import itertools
import json
import math
import statistics
import time
from pathlib import Path

from in_process import searched
from scipy import stats

from kdzero_gp.search.options import settings_from
from kdzero_gp.search.storage import Database

HERE = Path(__file__).parent
LANES, POPULATION = (1, 5, 20, 80), 20


def measured(folder):
    """The best fitness after every tenth birth, and how many were trained."""
    with Database.read(folder) as database:
        known = {e.digest: e for e in database.evaluations()}
        births = database.births()
    best, trained, curve = math.inf, 0, []
    for birth in births:
        found = known[birth.digest]
        if birth.duplicate_of is None:
            trained += not found.equivalent_to and not found.screen
            best = min(best, math.inf if found.fitness is None else found.fitness)
        curve.append(round(best, 5))
    return {"births": len(births), "trained": trained, "best": best, "curve": curve[9::10]}


def difference(pairs):
    """Mean of the paired differences and the half-width of its 95 % interval (Student's t)."""
    gaps = [one - other for one, other in pairs]
    if len(gaps) < 2:
        return {"mean": gaps[0], "half_width": None, "n": len(gaps)}
    half = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return {"mean": round(statistics.fmean(gaps), 4), "half_width": round(float(half), 4), "n": len(gaps)}


def at(row, share):
    """The best fitness after this share of the births."""
    return row["curve"][round(share * len(row["curve"])) - 1]


def summary(rows):
    """The best fitness with other lanes less that with 5 (positive: 5 is better), after half of the births and after
    all."""
    by, table = {(row["lanes"], row["seed"]): row for row in rows}, {}
    for lanes in LANES:
        found = [row["best"] for row in rows if row["lanes"] == lanes]
        seeds = [seed for count, seed in by if count == lanes and (5, seed) in by]
        if not seeds:
            continue
        pairs = [(by[lanes, seed], by[5, seed]) for seed in seeds]
        table[lanes] = {"best": round(statistics.fmean(found), 4), "n": len(found)} | {
            f"less that of 5 lanes, {name}": difference([(at(one, share), at(other, share)) for one, other in pairs])
            for name, share in (("half", 0.5), ("all", 1.0))
        }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(8)))
    parser.add_argument("--births", type=int, default=240)
    parser.add_argument("--proxy-epochs", type=float, default=4.0)
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--output", type=Path, default=HERE / "lanes.jsonl")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.output.read_text().splitlines()] if given.output.exists() else []
    for seed, lanes in itertools.product(given.seeds, LANES):
        if any((row["lanes"], row["seed"]) == (lanes, seed) for row in rows):
            continue
        whole = settings_from({"task": "digits", "seed": seed, "pop": POPULATION, "seed_zoo": False,
                               "generations": given.births // POPULATION, "lanes": lanes,
                               "proxy_epochs": given.proxy_epochs})  # fmt: skip
        begin = time.process_time()
        searched(given.work / f"{lanes}-{seed}", whole, given.work / f"{LANES[0]}-{seed}")
        row = {"lanes": lanes, "seed": seed, **measured(given.work / f"{lanes}-{seed}"),
               "seconds_of_the_processor": round(time.process_time() - begin, 1)}  # fmt: skip
        rows.append(row)
        with given.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(lanes, seed, row["best"], row["trained"], row["seconds_of_the_processor"], flush=True)
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
