"""Who is right about what the first rung stops: the rung, or the full proxy that likes it?

Samples candidates of the run that ``run.py`` reads by what both say of them, and trains them from scratch as a race
does.

    python experiments/screens/truth.py RUN
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from run import HERE, Study

from kdzero_gp.proxy.evaluator import Train

# The race's seed; every candidate gets the same.
SEED = 2_000_000
# A training that ends below this accuracy was destroyed.
DESTROYED = 0.85


def groups_of(study):
    """Candidates by fitness (the best quarter, near it, the rest) and by their gaps at the first rung."""
    own = [e for e in study.evaluated if not e.equivalent_to and not e.screen and e.fitness is not None]
    quarter = float(np.quantile([e.fitness for e in own], 0.25))
    near = 1.3 * quarter
    return {
        "fitness near the best quarter, gaps ≤ 1": [e for e in own if e.fitness <= near and e.short["gaps"] <= 1],
        "fitness in the best quarter, gaps > 1.05": [e for e in own if e.fitness <= quarter and e.short["gaps"] > 1.05],
        "other fitness, gaps > 1.05": [e for e in own if e.fitness > quarter and e.short["gaps"] > 1.05],
        "other fitness, gaps ≤ 1": [e for e in own if e.fitness > near and e.short["gaps"] <= 1],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=25, help="candidates of each group")
    parser.add_argument("--output", type=Path, default=HERE / "truth.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    study, generator, found = Study(given.folder), np.random.default_rng(0), {}
    for name, candidates in groups_of(study).items():
        chosen = [candidates[index] for index in generator.permutation(len(candidates))[: given.most]]
        outcomes = [study.evaluator.train(Train(study.source(e), SEED, recipe="race")) for e in chosen]
        accuracies = [outcome.metrics.get("accuracy", 0.0) for outcome in outcomes]
        found[name] = {
            "candidates": len(candidates), "trained": len(chosen), "mean_accuracy": statistics.fmean(accuracies),
            "median_accuracy": statistics.median(accuracies), "destroyed": sum(a < DESTROYED for a in accuracies),
            "mean_fitness": statistics.fmean(e.fitness for e in chosen),
        }  # fmt: skip
        print(name, json.dumps(found[name]), flush=True)
    given.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
