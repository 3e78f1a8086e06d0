"""Which fitness, proxy or screen finds better distillers for CIFAR-100? Winners of searches that differ in it.

    WHOLE="--proxy-trains whole --images 4000 --warm-epochs 7 --short-bound 1.02"
    kdzero-gp evolve PAIR --generations 6 --pop 15 --race-top 2 $WHOLE --out WORK/calibrated
    kdzero-gp evolve PAIR --generations 6 --pop 15 --race-top 2 $WHOLE --ce-weight 1 --calibrated-weight 0 --out WORK/ce
    python experiments/cifar100/fitness.py WORK/calibrated WORK/ce
    kdzero-gp evolve PAIR --generations 6 --pop 15 --race-top 2 --out WORK/last-stage
    python experiments/cifar100/fitness.py WORK/last-stage WORK/calibrated --output last_stage.json
    kdzero-gp evolve PAIR --generations 6 --pop 15 --race-top 2 --surrogate-share 1 --out WORK/without-surrogate
    kdzero-gp evolve PAIR --generations 12 --pop 15 --race-top 2 --out WORK/with-surrogate
    python experiments/cifar100/fitness.py WORK/without-surrogate WORK/with-surrogate --output surrogate.json

The fittest of each search (``--top``), the first run's kd and cross-entropy alone are trained as the first run's race
does (4 epochs from its warm student), on seeds that no search or race has seen. Beside that: how each metric of the
searches' candidates goes with their accuracy after the proxy.
"""

import argparse
import json
import os
import platform
import statistics
from pathlib import Path

import torch
from scipy import stats

import kdzero_gp
from kdzero_gp.common import ALONE, interval
from kdzero_gp.compiler import source_of
from kdzero_gp.proxy.evaluator import Train
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK
from kdzero_gp.search.race import entries
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database

HERE = Path(__file__).parent
METRICS = ("cross_entropy", "calibrated", "sharpness_gap", "cka_gap")
SEED = 4_000_000


def correlations(database):
    """Spearman of each metric, and of the equal sum of the paper's three, with the accuracy after the proxy."""
    known = [e.metrics for e in database.evaluations() if not e.reason and not e.equivalent_to]
    alone = [m.metrics for m in database.measurements("baseline")]
    means = {name: statistics.fmean(one[name] for one in alone) for name in METRICS}
    accuracies = [one["accuracy"] for one in known]
    columns = {name: [one[name] for one in known] for name in METRICS}
    three = [name for name in METRICS if name != "calibrated"]
    columns["equal sum"] = [sum(one[name] / means[name] for name in three) for one in known]
    found = {name: float(stats.spearmanr(values, accuracies)[0]) for name, values in columns.items()}
    return {"candidates": len(known), "spearman_with_accuracy": found}


def competitors(folder, top):
    """The fittest of one run, and its kd; the run's weights of the fitness and its correlations."""
    with Database.read(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        every = entries(database, settings)
        facts = {"weights": dict(settings.plan.weights), "births": len(database.births()), **correlations(database)}
    evolved = [entry for entry in every if entry.kind == "evolved"][:top]
    return evolved, next(entry for entry in every if entry.name == "kd"), facts


def row(found, kd):
    """Means and 95 % intervals over the seeds, and the paired difference to kd."""
    gaps = [a - b for a, b in zip(found["test_accuracy"], kd["test_accuracy"], strict=True)]
    return {"test": statistics.fmean(found["test_accuracy"]), "interval": interval(found["test_accuracy"]),
            "validation": statistics.fmean(found["accuracy"]), "to_kd": statistics.fmean(gaps),
            "to_kd_interval": interval(gaps), "n": len(gaps)}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="runs of one pair with one warm student")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--top", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "fitness.json")
    given = parser.parse_args()
    runs, everyone = {}, {}
    for folder in given.folders:
        evolved, kd, runs[folder.name] = competitors(folder, given.top)
        everyone |= {f"{folder.name} {index}": entry for index, entry in enumerate(evolved, 1)}
        everyone.setdefault("kd", kd)
    bench = ProxyTask.load(given.folders[0] / PROXY_TASK)
    shapes = bench.student_shapes, bench.teacher_shapes
    sources = {name: source_of(e.expression, *shapes, e.magnitudes) for name, e in everyone.items()}
    sources[ALONE] = ""
    wanted = [(name, SEED + seed) for seed in range(given.seeds) for name in sources]
    table = {name: {"accuracy": [], "test_accuracy": []} for name in sources}
    with Executor(given.folders[0] / PROXY_TASK, os.cpu_count() or 1) as executor:
        answers = dict(executor.map([Train(sources[name], seed, recipe="race") for name, seed in wanted]))
    for place, (name, _) in enumerate(wanted):
        for metric, values in table[name].items():
            values.append(answers[place].metrics.get(metric, 0.0))
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__,
               "kdzero_gp": kdzero_gp.__version__}  # fmt: skip
    expressions = {name: str(e.expression) for name, e in everyone.items()}
    rows = {name: row(values, table["kd"]) for name, values in table.items()}
    found = {"machine": machine, "runs": runs, "expressions": expressions, "table": rows, "trainings": table}
    given.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({key: found[key] for key in ("runs", "table")}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
