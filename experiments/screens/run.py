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

from kdzero_gp.compiler import source_of
from kdzero_gp.evaluation import Bench, Evaluator, FitnessWeights, Recipe, Request, Screening, fitness
from kdzero_gp.evaluation.screens import SAME_GRADIENT
from kdzero_gp.models.pair import student_builder
from kdzero_gp.runner.run import BENCH
from kdzero_gp.storage import Database

HERE = Path(__file__).parent
KEEPS = (0.25, 0.5, 0.75, 1.0)


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
    """What rejection says of one candidate, its short proxy's fitness and what both cost."""
    away = Screening(("finite", "rejection"))
    outcome = evaluator(Request(source, seed, "short", mode, screening=away))
    rejected = outcome.reason if outcome.screen == "rejection" else ""
    if rejected:
        outcome = evaluator(Request(source, seed, "short", mode))
    value = math.inf if outcome.reason else fitness(outcome.metrics, baseline, FitnessWeights())
    return {"rejection": rejected, "short": value, "seconds": outcome.stages}


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


def simulate(rows, keep, population=20):
    """Which candidates the short proxy turns away when the bound follows the latest ``population`` fully trained."""
    away, recent = [], []
    for row in rows:
        values = sorted(recent[-population:])
        bound = values[math.ceil(keep * len(values)) - 1] if len(values) >= 4 else math.inf
        if row["short"] > bound:
            away.append(row)
        elif math.isfinite(row["fitness"]):
            recent.append(row["short"])
    return away


def top_decile(rows):
    """The fitness that the best tenth reaches: of all candidates, and of each third of the search."""
    return float(np.quantile([row["fitness"] for row in rows], 0.1))


def summary(rows):
    """Per screen: how many it turns away, and how many of these end in the top decile by their full proxy."""
    limit = top_decile(rows)
    late = rows[len(rows) // 2 :]
    found = {"candidates": len(rows), "top_decile": limit, "screens": {}}
    groups = {"rejection": [row for row in rows if row["rejection"]]}
    groups |= {f"short, keep {keep:g}": simulate(rows, keep) for keep in KEEPS}
    for name, away in groups.items():
        good = sum(row["fitness"] <= limit for row in away)
        second = [row for row in away if row in late]
        found["screens"][name] = {
            "turned_away": len(away), "in_top_decile": good, "share": good / max(1, len(away)),
            "turned_away_in_second_half": len(second),
        }  # fmt: skip
    kept = [row for row in rows if math.isfinite(row["short"]) and math.isfinite(row["fitness"])]
    ranks = [np.argsort(np.argsort([row[name] for row in kept])) for name in ("short", "fitness")]
    found["spearman_short_full"] = float(np.corrcoef(*ranks)[0, 1])
    return found


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
    parser.add_argument("--epochs", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="lengths of the short proxy")
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
