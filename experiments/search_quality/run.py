"""Does evolution find better distillers than random search and than the paper's fixed template, and what does the
surrogate gain?

Searches of digits: free trees and the template, evolved and drawn at random, all of a seed on one bench and without
published methods in the first population. Two of them are compared at equal numbers of births, of full trainings and
of seconds. The fittest of each are then trained from scratch on fresh seeds, as the race does. Results are kept run by
run; a second start goes on.

    python experiments/search_quality/run.py --seeds 0 1 2 3 4 5 6 7 --work /tmp/search_quality
"""

import argparse
import itertools
import json
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

from scipy import stats

from kdzero_gp.common import ALONE
from kdzero_gp.engine.machine import Machine
from kdzero_gp.evolution import SearchSettings
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.screens import SCREENS
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK, TEACHER
from kdzero_gp.search.race import entries
from kdzero_gp.search.run import Work
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import DATABASE, Database
from kdzero_gp.tasks.plan import DIGITS

HERE = Path(__file__).parent
# Where the surrogate spares trainings, a search has more births, for about the same time.
BIRTHS, BIRTHS_WITH_SURROGATE = 400, 600
ARMS = {
    "open": {"space": "open"},
    "open with surrogate": {"space": "open", "surrogate": True},
    "open random": {"space": "open", "random_search": True},
    "template": {"space": "kdzero"},
    "template random": {"space": "kdzero", "random_search": True},
    "open without shrinkage": {"space": "open", "shrink": False},
    "open, by cross-entropy": {"space": "open", "weights": {"cross_entropy": 1.0}},
    "open, by cross-entropy, 8 epochs": {"space": "open", "weights": {"cross_entropy": 1.0}, "epochs": 8},
}
POPULATION = 20
# The mean accuracy of so many of the fittest, over the race's seeds, is what a search has found.
RACED = 3
# What two searches are compared at equal numbers of: columns of a curve.
AXES = ("births", "trainings", "seconds")


class Searched(Work):
    """A run without published methods."""

    def measure_zoo(self):
        """Nothing."""


def settings_of(arm, seed, births):
    """A search's settings: the task's own, but for the arm."""
    own = dict(ARMS[arm])
    space, plan, surrogate = own.pop("space"), DIGITS, own.pop("surrogate", False)
    births = births or (BIRTHS_WITH_SURROGATE if surrogate else BIRTHS)
    screens = tuple(name for name in SCREENS if surrogate or name != "surrogate")
    proxy = replace(plan.proxy, epochs=own.pop("epochs", plan.proxy.epochs))
    plan = replace(plan, heat=0, race_top=RACED, proxy=proxy, weights=own.pop("weights", plan.weights))
    search = SearchSettings(births // POPULATION, POPULATION, seed, **own)
    return RunSettings(
        teacher=plan.teacher, student=plan.student, space=space, seed_zoo=False, search=search, plan=plan,
        screens=screens,
    )  # fmt: skip


def searched(folder, settings, like, machine):
    """Carry out one search, or go on with it; ``like`` is the folder whose bench it shares."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DATABASE).exists():
        if like != folder:
            shutil.copy(like / TEACHER, folder / TEACHER)
            bench = ProxyTask.load(like / PROXY_TASK)
            bench.recipes["proxy"] = settings.plan.proxy
            bench.save(folder / PROXY_TASK)
        Database.create(folder, {"settings": settings.as_dict(), "versions": {}}).close()
    with Database.open(folder) as database:
        if not database.fact("finished"):
            Searched(folder, database, settings, machine, Progress()).run()


def measured(folder, settings):
    """The best fitness over births, full trainings and seconds, and the raced accuracy of the fittest."""
    with Database.read(folder) as database:
        known = {e.digest: e for e in database.evaluations()}
        births = database.births()
        cost = database.seconds("evaluation")
        winner = entries(database, settings)[0]
        races = [m for m in database.measurements("race") if m.name != ALONE]
    raced, tested = ([m.metrics[name] for m in races if not m.reason] for name in ("accuracy", "test_accuracy"))
    best, spent, trained, curve = math.inf, 0.0, 0, []
    for number, birth in enumerate(births, 1):
        if birth.duplicate_of is None:
            found = known[birth.digest]
            spent += cost[birth.digest]
            trained += not found.equivalent_to and not found.screen
            best = min(best, math.inf if found.fitness is None else found.fitness)
        curve.append((number, trained, round(spent, 1), round(best, 4)))
    return {"births": len(births), "trainings": trained, "seconds": spent, "best": best, "curve": curve[9::10],
            "fittest": winner.expression, "failed": sum(bool(m.reason) for m in races), "raced": raced,
            "accuracy": statistics.fmean(raced) if raced else None,
            "test": statistics.fmean(tested) if tested else None}  # fmt: skip


def difference(one, other):
    """Mean and half-width of the 95 % interval (Student's t) of paired differences."""
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    if len(gaps) < 2:
        return {"mean": gaps[0], "half_width": None, "n": 1}
    half = float(stats.t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return {"mean": statistics.fmean(gaps), "half_width": half, "n": len(gaps)}


def best_at(found, axis, most):
    """The best fitness that a search had after so many births, trainings or seconds of evaluation."""
    column = AXES.index(axis)
    return min((point[-1] for point in found["curve"] if point[column] <= most), default=math.inf)


def better_at(axis, pairs):
    """Differences in best fitness (positive: the first of a pair is better) where the shorter of both ends."""
    ends = [min(one[axis], other[axis]) for one, other in pairs]
    return difference(*([best_at(pair[k], axis, e) for pair, e in zip(pairs, ends, strict=True)] for k in (1, 0)))


def summary(rows):
    """Differences in best fitness (positive: the first is better) at equal births, trainings and seconds, and in
    accuracy."""
    table = {}
    seeds = sorted({row["seed"] for row in rows})
    by = {(row["arm"], row["seed"]): row for row in rows}
    for one, other in itertools.permutations(ARMS, 2):
        both = [s for s in seeds if (one, s) in by and (other, s) in by]
        if not both:
            continue
        pairs = [(by[one, s], by[other, s]) for s in both]
        table[f"{one} − {other}"] = {
            **{f"fitness_at_{axis}": better_at(axis, pairs) for axis in AXES},
            "fitness_at_the_end": difference([b["best"] for _, b in pairs], [a["best"] for a, _ in pairs]),
            "accuracy": difference([a["accuracy"] or 0 for a, _ in pairs], [b["accuracy"] or 0 for _, b in pairs]),
            "test": difference([a["test"] or 0 for a, _ in pairs], [b["test"] or 0 for _, b in pairs]),
        }  # fmt: skip
    return table


def figure(rows, path):
    """Best fitness over births, every search a line, arms by colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for index, arm in enumerate(ARMS):
        for number, row in enumerate(r for r in rows if r["arm"] == arm):
            label = arm if number == 0 else None
            _, trainings, _, best = zip(*row["curve"], strict=True)
            axes.plot(trainings, best, color=f"C{index}", alpha=0.7, label=label)
    axes.set(xlabel="full trainings", ylabel="best proxy fitness (cross-entropy alone: 1)", title="Search on digits")
    axes.legend(frameon=False)
    drawing.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--births", type=int, help=f"[default: {BIRTHS}, with surrogate {BIRTHS_WITH_SURROGATE}]")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--workers", type=int, help="processes of a search [default: one for each core]")
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--output", type=Path, default=HERE)
    given = parser.parse_args()
    output, now = given.output / "result.json", set(itertools.product(given.arms, given.seeds))
    known = json.loads(output.read_text(encoding="utf-8"))["rows"] if output.exists() else []
    # other arms and seeds of an earlier start stay
    rows = [row for row in known if (row["arm"], row["seed"]) not in now]
    for seed, arm in itertools.product(given.seeds, given.arms):
        settings = settings_of(arm, seed, given.births)
        folder = given.work / f"{arm.replace(' ', '-')}-{seed}"
        shared = given.work / f"{given.arms[0].replace(' ', '-')}-{seed}"
        searched(folder, settings, shared, Machine(workers=given.workers))
        rows.append({"arm": arm, "seed": seed, **measured(folder, settings)})
        print(arm, seed, rows[-1]["best"], rows[-1]["accuracy"], f"{rows[-1]['seconds']:.0f} s", flush=True)
        found = {"rows": rows, "summary": summary(rows)}
        output.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
    figure(rows, given.output / "figure.png")
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
