"""Do the screens turn away what they should keep? Candidates of a real search, trained in full whatever a screen says.

Run ``kdzero-gp evolve --screens finite,equivalence`` first (digits, or any task), then this on its folder. Every
distinct candidate of that run has a full proxy; here each is asked what loss rejection and the short proxy say, and
those that a screen turns away are trained in full from scratch as the race does, beside a sample of the kept.
"""

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from kdzero_gp.compiler import source_of
from kdzero_gp.evaluation import Bench, Evaluator, FitnessWeights, Recipe, Request, Screening, fitness
from kdzero_gp.evaluation.proxy import SHORT_WEIGHTS
from kdzero_gp.evaluation.screens import SAME_GRADIENT
from kdzero_gp.models.pair import student_builder
from kdzero_gp.runner.run import BENCH
from kdzero_gp.storage import Database

HERE = Path(__file__).parent
BOUNDS = (0.9, 0.95, 1.0, 1.1)


def evaluator_of(folder, epochs):
    """The run's evaluator, with another length of the short proxy."""
    bench = Bench.load(folder / BENCH)
    proxy = bench.recipes["proxy"]
    bench.recipes["short"] = Recipe(epochs, proxy.batch_size, proxy.learning_rate, proxy.decay)
    return Evaluator(bench, student_builder(bench.student, bench.train.images[:2]))


def short_baseline(evaluator, seeds=5):
    """Metrics of cross-entropy alone after the short proxy."""
    found = [evaluator(Request("", 3_000_000 + seed, "short")).metrics for seed in range(seeds)]
    return {name: statistics.fmean(metrics[name] for metrics in found) for name in found[0]}


def candidate(evaluator, source, seed, mode, baseline):
    """What rejection says of one candidate, and its gaps and fitness after the short proxy."""
    outcome = evaluator(Request(source, seed, "short", mode, screening=Screening(("finite", "rejection"))))
    rejected = outcome.reason if outcome.screen == "rejection" else ""
    if rejected:
        outcome = evaluator(Request(source, seed, "short", mode))
    gaps, all_three = (
        math.inf if outcome.reason else fitness(outcome.metrics, baseline, weights)
        for weights in (SHORT_WEIGHTS, FitnessWeights())
    )
    return {"rejection": rejected, "gaps": gaps, "short_fitness": all_three, "stages": outcome.stages}


def collect(folder, epochs):
    """One row for each distinct candidate of the run that was trained in full."""
    evaluator = evaluator_of(folder, epochs)
    baseline = short_baseline(evaluator)
    with Database.read(folder) as database:
        settings, births = database.fact("settings"), database.births()
        known = {e.digest: e for e in database.evaluations()}
    rows = []
    for birth in births:
        found = known[birth.digest]
        if birth.duplicate_of is not None or found.equivalent_to or found.screen:
            continue
        bench = evaluator.bench
        source = source_of(found.expression, bench.student_shapes, bench.teacher_shapes)
        said = candidate(evaluator, source, settings["search"]["seed"], settings["magnitude"], baseline)
        rows.append({"digest": found.digest, "generation": birth.generation, "expression": found.expression,
                     "fitness": found.fitness if found.fitness is not None else math.inf, **said})  # fmt: skip
    return rows


def spearman(rows, name):
    """Rank correlation of a number after the short proxy with the full proxy's fitness."""
    kept = [row for row in rows if math.isfinite(row[name]) and math.isfinite(row["fitness"])]
    return float(stats.spearmanr([row[name] for row in kept], [row["fitness"] for row in kept])[0])


def summary(rows):
    """Per screen: how many it turns away, and how many of these end in the top decile by their full proxy."""
    limit = float(np.quantile([row["fitness"] for row in rows], 0.1))
    groups = {"rejection": [row for row in rows if row["rejection"]]}
    groups |= {f"short, gaps above {bound:g}": [row for row in rows if row["gaps"] > bound] for bound in BOUNDS}
    count = len(rows)
    groups["short, worse half by fitness"] = sorted(rows, key=lambda row: row["short_fitness"])[count // 2 :]
    screens = {}
    for name, away in groups.items():
        good = sum(row["fitness"] <= limit for row in away)
        screens[name] = {"turned_away": len(away), "in_top_decile": good, "share": good / max(1, len(away))}
    return {"candidates": count, "top_decile": limit, "screens": screens,
            "spearman": {name: spearman(rows, name) for name in ("gaps", "short_fitness")}}  # fmt: skip


def twins(folder):
    """How far apart in fitness candidates are whose gradients differ by little: is the tolerance right?"""
    with Database.read(folder) as database:
        found = [e for e in database.evaluations() if e.fitness is not None and not e.equivalent_to]
    prints = np.stack([np.frombuffer(e.fingerprint, dtype=np.float32) for e in found])
    lengths = np.linalg.norm(prints, axis=1)
    rows = []
    for index, one in enumerate(found):
        distances = np.linalg.norm(prints[:index] - prints[index], axis=1) / lengths[index]
        rows += [(float(d), abs(one.fitness - found[i].fitness)) for i, d in enumerate(distances) if d < 0.3]
    edges = (0.0, SAME_GRADIENT, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
    table = []
    for low, high in itertools.pairwise(edges):
        gaps = [gap for distance, gap in rows if low < distance <= high]
        table.append({"from": low, "to": high, "pairs": len(gaps),
                      "median_gap": statistics.median(gaps) if gaps else None,
                      "largest_gap": max(gaps, default=None)})  # fmt: skip
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run made with --screens finite,equivalence")
    parser.add_argument("--epochs", type=float, nargs="+", default=[1.0], help="lengths of the short proxy")
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {"run": given.folder.name, "twins": twins(given.folder), "by_epochs": {}}
    for epochs in given.epochs:
        rows = collect(given.folder, epochs)
        found["by_epochs"][f"{epochs:g}"] = summary(rows)
        print(json.dumps(found["by_epochs"][f"{epochs:g}"], indent=1), flush=True)
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (given.output.parent / "rows.json").write_text(json.dumps(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
