"""Do the screens turn away what they should keep? Candidates of a real search, trained in full whatever a screen says.

First a search in which nothing is stopped early, then this on its folder:

    kdzero-gp evolve --generations 60 --screens finite,equivalence,short --short-bound inf --out RUN
    python experiments/screens/run.py RUN

Every candidate of that run was trained in full, but for those with a known gradient, which are trained here. Each is
asked what loss rejection says; what the first rung says is in the run. A screen errs where it turns away a candidate
whose full proxy is in the best tenth of all.
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
from kdzero_gp.compiler.loading import load_source
from kdzero_gp.proxy.evaluator import Evaluator, Train
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.screens import SAME_GRADIENT, Rejected, must_lead_to_the_teacher
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database

HERE = Path(__file__).parent
BOUNDS = (0.9, 0.95, 1.0, 1.1)


class Study:
    """A run's bench and rows."""

    def __init__(self, folder):
        with Database.read(folder) as database:
            self.settings = RunSettings.from_dict(database.fact("settings"))
            known = {e.digest: e for e in database.evaluations()}
            births = [b for b in database.births() if b.duplicate_of is None]
            baseline = [m.metrics for m in database.measurements("baseline")]
        self.evaluated = [known[birth.digest] for birth in births]
        self.known = known
        self.generation = {birth.digest: birth.generation for birth in births}
        self.baseline = {name: statistics.fmean(m[name] for m in baseline) for name in baseline[0]}
        bench = ProxyTask.load(folder / PROXY_TASK).of("proxy")
        self.evaluator = Evaluator(bench, student_builder(bench.student, bench.train.images[:2]))

    def source(self, found):
        """The source that the run trained, with the magnitudes that it found, or as written where it found none."""
        bench = self.evaluator.bench
        return source_of(found.expression, bench.student_shapes, bench.teacher_shapes, found.magnitudes or None)

    def rejection(self, found):
        """What loss rejection says of a candidate; '' where it lets it pass."""
        try:
            teacher = self.evaluator.teacher(load_source(self.source(found)))
            must_lead_to_the_teacher(self.evaluator.prober, teacher, self.evaluator.bench.classes)
        except Rejected as reason:
            return str(reason)
        return ""

    def full(self, found):
        """The fitness of a full proxy of its own, for a candidate that got its twin's."""
        trained = self.evaluator.train(Train(self.source(found), self.settings.search.seed))
        return math.inf if trained.reason else fitness(trained.metrics, self.baseline, self.settings.plan.weights)


def rows_of(study, most):
    """One row for each candidate that was trained in full, and for at most ``most`` twins."""
    rows = []
    for found in study.evaluated:
        if found.equivalent_to or found.screen:
            continue
        value = math.inf if found.fitness is None else found.fitness
        rows.append({"digest": found.digest, "generation": study.generation[found.digest], "fitness": value,
                     "gaps": found.short.get("gaps", math.inf), "rejection": study.rejection(found)})  # fmt: skip
    twins = [e for e in study.evaluated if e.equivalent_to and e.fitness is not None]
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(twins))[:most]
    for index in chosen:
        found = twins[index]
        rows.append({"digest": found.digest, "twin": found.equivalent_to, "given": found.fitness,
                     "fitness": study.full(found), "generation": study.generation[found.digest]})  # fmt: skip
    return rows


def summary(rows):
    """Per screen: how many it turns away, how many of these end in the best tenth, with an upper 95 % limit."""
    own = [row for row in rows if "twin" not in row]
    limit = float(np.quantile([row["fitness"] for row in own], 0.1))
    groups = {"rejection": [row for row in own if row["rejection"]]}
    groups |= {f"short, gaps above {bound:g}": [row for row in own if row["gaps"] > bound] for bound in BOUNDS}
    screens = {}
    for name, away in groups.items():
        good, count = sum(row["fitness"] <= limit for row in away), len(away)
        upper = float(stats.beta.ppf(0.95, good + 1, max(1, count - good))) if count else None
        screens[name] = {"turned_away": count, "in_best_tenth": good, "share": good / max(1, count), "upper": upper}
    finite = [row for row in own if math.isfinite(row["gaps"]) and math.isfinite(row["fitness"])]
    correlation = stats.spearmanr([row["gaps"] for row in finite], [row["fitness"] for row in finite])[0]
    return {"candidates": len(own), "best_tenth": limit, "screens": screens,
            "spearman_gaps_fitness": float(correlation), "twins": twins_summary(rows, limit)}  # fmt: skip


def twins_summary(rows, limit):
    """How far a twin's own fitness is from the one that it was given."""
    twins = [row for row in rows if "twin" in row]
    gaps = [abs(row["fitness"] - row["given"]) for row in twins]
    if not gaps:
        return {"trained": 0}
    missed = sum(row["fitness"] <= limit < row["given"] for row in twins)
    return {"trained": len(gaps), "median_difference": statistics.median(gaps),
            "ninth_decile": float(np.quantile(gaps, 0.9)), "in_best_tenth_but_given_worse": missed}  # fmt: skip


def by_distance(study):
    """How far apart in fitness candidates are whose gradients differ by so much: is the tolerance right?"""
    found = [e for e in study.evaluated if e.fitness is not None and not e.equivalent_to and e.fingerprint]
    prints = np.stack([np.frombuffer(e.fingerprint, dtype=np.float32) for e in found])
    lengths = np.linalg.norm(prints, axis=1)
    pairs = []
    for index, one in enumerate(found):
        distances = np.linalg.norm(prints[:index] - prints[index], axis=1) / lengths[index]
        pairs += [(float(d), abs(one.fitness - found[i].fitness)) for i, d in enumerate(distances) if d <= 0.3]
    edges = (0.0, SAME_GRADIENT, 0.03, 0.1, 0.3)
    table = []
    for low, high in itertools.pairwise(edges):
        gaps = [gap for distance, gap in pairs if low < distance <= high]
        table.append({"from": low, "to": high, "pairs": len(gaps),
                      "median_difference": statistics.median(gaps) if gaps else None})  # fmt: skip
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="a run made with --screens finite,equivalence,short --short-bound inf"
    )
    parser.add_argument("--twins", type=int, default=100, help="how many twins are trained")
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(given.folder)
    rows = rows_of(study, given.twins)
    found = {"task": study.settings.task, **summary(rows), "by_distance": by_distance(study), "rows": rows}
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "rows"}, indent=1))


if __name__ == "__main__":
    main()
