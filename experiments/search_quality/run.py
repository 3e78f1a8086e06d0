"""Does evolution find better distillers than random search, and than the paper's fixed template?

Four searches of digits for each seed: free trees and the template, evolved and drawn at random, all on one bench, with
equal numbers of births and without published methods in the first population. The fittest of each are then trained
from scratch on fresh seeds, as the race does. Results are kept run by run; a second start goes on.

    python experiments/search_quality/run.py --seeds 5 --births 600 --work /tmp/search_quality
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

from kdzero_gp.evaluation import Bench, FitnessWeights
from kdzero_gp.evolution import SearchSettings
from kdzero_gp.runner import CROSS_ENTROPY, PLANS, Machine, Progress, RunSettings, entries
from kdzero_gp.runner.prepare import TEACHER
from kdzero_gp.runner.run import BENCH, Work
from kdzero_gp.storage import DATABASE, Database

HERE = Path(__file__).parent
ARMS = {
    "open": {"space": "open"},
    "open random": {"space": "open", "random_search": True},
    "template": {"space": "kdzero"},
    "template random": {"space": "kdzero", "random_search": True},
    "open without shrinkage": {"space": "open", "shrink": False},
    "open, by cross-entropy": {"space": "open", "weights": FitnessWeights(1, 0, 0)},
    "open, by cross-entropy, 8 epochs": {"space": "open", "weights": FitnessWeights(1, 0, 0), "epochs": 8},
}
POPULATION = 20
# The mean accuracy of so many of the fittest, over the race's seeds, is what a search has found.
RACED = 3
MARKS = (0.25, 0.5, 0.75, 1.0)


class Searched(Work):
    """A run without published methods."""

    def measure_zoo(self):
        """Nothing."""


def settings_of(arm, seed, births, screens):
    """A search's settings: the task's own, but for the arm."""
    own = dict(ARMS[arm])
    space, plan = own.pop("space"), PLANS["digits"]
    proxy = replace(plan.proxy, epochs=own.pop("epochs", plan.proxy.epochs))
    plan = replace(plan, race_top=RACED, proxy=proxy, weights=own.pop("weights", plan.weights))
    search = SearchSettings(births // POPULATION, POPULATION, seed, **own)
    settings = RunSettings(
        teacher=plan.teacher, student=plan.student, space=space, seed_zoo=False, search=search, plan=plan
    )
    return settings if screens is None else replace(settings, screens=screens)


def searched(folder, settings, like, machine):
    """Carry out one search, or go on with it; ``like`` is the folder whose bench it shares."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DATABASE).exists():
        if like != folder:
            shutil.copy(like / TEACHER, folder / TEACHER)
            bench = Bench.load(like / BENCH)
            bench.recipes["proxy"] = settings.plan.proxy
            bench.save(folder / BENCH)
        Database.create(folder, {"settings": settings.as_dict(), "versions": {}}).close()
    with Database.open(folder) as database:
        if not database.fact("finished"):
            Searched(folder, database, settings, machine, Progress()).carry_out()


def measured(folder, settings):
    """The best fitness after each share of the births and of the seconds, and the winner's raced accuracy."""
    with Database.read(folder) as database:
        known = {e.digest: e for e in database.evaluations()}
        births = database.births()
        cost = dict(database.connection.execute("SELECT name, seconds FROM costs WHERE kind = 'evaluation'"))
        winner = entries(database, settings)[0]
        races = [m for m in database.measurements("race") if m.name != CROSS_ENTROPY]
    raced, tested = ([m.metrics[name] for m in races if not m.reason] for name in ("accuracy", "test_accuracy"))
    best, spent, curve = math.inf, 0.0, []
    for birth in births:
        if birth.duplicate_of is None:
            spent += cost[birth.digest]
            value = known[birth.digest].fitness
            best = min(best, math.inf if value is None else value)
        curve.append((spent, best))
    trained = sum(not e.equivalent_to and not e.screen for e in known.values())
    at_births = {f"{mark:g}": curve[math.ceil(mark * len(curve)) - 1][1] for mark in MARKS}
    return {"at_births": at_births, "curve": curve[9::10], "seconds": spent, "trained": trained,
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


def at_time(found, seconds):
    """The best fitness that a search had after so many seconds of evaluation."""
    return min((best for spent, best in found["curve"] if spent <= seconds), default=math.inf)


def summary(rows):
    """Differences in best fitness (positive: the first is better) at equal births and seconds, and in accuracy."""
    table = {}
    seeds = sorted({row["seed"] for row in rows})
    by = {(row["arm"], row["seed"]): row for row in rows}
    for one, other in itertools.permutations(ARMS, 2):
        both = [s for s in seeds if (one, s) in by and (other, s) in by]
        if not both:
            continue
        pairs = [(by[one, s], by[other, s]) for s in both]
        seconds = [min(a["seconds"], b["seconds"]) for a, b in pairs]
        table[f"{one} − {other}"] = {
            "fitness_at_births": difference([b["at_births"]["1"] for _, b in pairs],
                                            [a["at_births"]["1"] for a, _ in pairs]),
            "fitness_at_seconds": difference([at_time(b, s) for (_, b), s in zip(pairs, seconds, strict=True)],
                                             [at_time(a, s) for (a, _), s in zip(pairs, seconds, strict=True)]),
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
            x = [10 * (i + 1) for i in range(len(row["curve"]))]
            label = arm if number == 0 else None
            axes.plot(x, [best for _, best in row["curve"]], color=f"C{index}", alpha=0.7, label=label)
    axes.set(xlabel="births", ylabel="best proxy fitness (cross-entropy alone: 1)", title="Search on digits")
    axes.legend(frameon=False)
    drawing.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--births", type=int, default=600)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--screens", nargs="*", help="other screens than the default")
    parser.add_argument("--workers", type=int, help="processes of a search [default: one for each core]")
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--output", type=Path, default=HERE)
    given = parser.parse_args()
    output, now = given.output / "result.json", set(itertools.product(given.arms, range(given.seeds)))
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"births": given.births, "rows": []}
    # other arms and seeds of an earlier start stay
    rows = [r for r in known["rows"] if known["births"] == given.births and (r["arm"], r["seed"]) not in now]
    for seed, arm in itertools.product(range(given.seeds), given.arms):
        settings = settings_of(arm, seed, given.births, None if given.screens is None else tuple(given.screens))
        folder = given.work / f"{arm.replace(' ', '-')}-{seed}"
        searched(folder, settings, given.work / f"{given.arms[0].replace(' ', '-')}-{seed}", Machine(given.workers))
        rows.append({"arm": arm, "seed": seed, **measured(folder, settings)})
        print(arm, seed, rows[-1]["at_births"], rows[-1]["accuracy"], f"{rows[-1]['seconds']:.0f} s", flush=True)
        found = {"births": given.births, "rows": rows, "summary": summary(rows)}
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    figure(rows, given.output / "figure.png")
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
