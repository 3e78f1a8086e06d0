"""Do candidates that the screens turned away belong to the best? They are trained anyway, from scratch as a race does.

Of a finished run with the default screens, ``--most`` candidates that loss rejection, the surrogate, the first rung or
the bound on memory turned away, and as many that had their full proxy, are drawn at random and trained on fresh seeds.
A screen errs where what it turned away ends in the best tenth of all candidates of the run, both groups weighted by
their size.

    kdzero-gp evolve --generations 100 --pop 20 --out RUN
    python experiments/screens/rejected.py RUN

``--again N`` trains those of both groups that reached the best tenth on N more seeds, which tells luck from merit.
``--proxy`` trains them with the search's own proxy instead, where trainings from scratch take too long (CIFAR-100).
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from run import HERE, Study
from scipy import stats

from kdzero_gp.common import interval
from kdzero_gp.proxy.evaluator import Probe, Train
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.search.prepare import PROXY_TASK

# Apart from all seeds of searches and races.
SEED = 3_000_000


def groups_of(study):
    """Candidates with a gradient of their own: turned away, by screen, and trained in full."""
    names = {"rejection": "loss rejection", "surrogate": "surrogate", "short": "first rung"}
    found = {name: [] for name in (*names.values(), "memory", "kept")}
    for one in study.evaluated:
        if one.equivalent_to:
            continue
        if one.screen in names:
            found[names[one.screen]].append(one)
        elif "too much memory" in one.reason:
            found["memory"].append(one)
        elif not one.reason:
            found["kept"].append(one)
    return found


def drawn(groups, most):
    """At most ``most`` of what was turned away, whichever screen did it, and of what was kept."""
    generator = np.random.default_rng(0)
    away = [(name, one) for name in groups if name != "kept" for one in groups[name]]
    chosen = [away[index] for index in generator.permutation(len(away))[:most]]
    kept = [("kept", groups["kept"][index]) for index in generator.permutation(len(groups["kept"]))[:most]]
    return chosen + kept


def trained(executor, study, wanted, recipe):
    """Trainings without screens of distillers with seeds. What the bound on memory turned away has no magnitudes yet:
    they are measured."""
    probes = [Probe(study.source(one), seed, study.settings.magnitude, screens=()) for one, seed in wanted]
    probed = dict(executor.map(probes))
    requests = [
        Train(study.source(one), seed, None if one.magnitudes else probed[place].magnitudes, recipe)
        for place, (one, seed) in enumerate(wanted)
    ]
    answers = dict(executor.map(requests))
    return [answers[place] for place in range(len(wanted))]


def after_the_proxy(folder, study, chosen, workers):
    """Validation accuracy of each after the proxy: the run's own, or that of a proxy without screens."""
    todo = [one for name, one in chosen if name != "kept"]
    with Executor(folder / PROXY_TASK, workers) as executor:
        answers = trained(executor, study, [(one, study.settings.search.seed) for one in todo], "proxy")
    outcomes = {one.digest: answer for one, answer in zip(todo, answers, strict=True)}
    return [
        (one.metrics if name == "kept" else outcomes[one.digest].metrics).get("accuracy", 0.0) for name, one in chosen
    ]


def again(folder, study, found, seeds, workers):
    """Accuracies on fresh seeds of what reached the best tenth: of what was turned away, and of what was kept."""
    known = {one.digest: one for one in study.evaluated}
    best = [row for row in found["rows"] if row["accuracy"] >= found["threshold"]]
    chosen = [(row["group"], known[row["digest"]]) for row in best]
    values = from_scratch(folder, study, chosen, seeds, workers, found["seeds"])
    rows = {}
    for name in ("turned away", "kept"):
        mine = [
            value for (group, _), value in zip(chosen, values, strict=True) if (group == "kept") == (name == "kept")
        ]
        still = sum(value >= found["threshold"] for value in mine)
        rows[name] = {"trained": len(mine), "mean_accuracy": statistics.fmean(mine), "interval": interval(mine),
                      "again_above": still}  # fmt: skip
    return {"seeds": seeds, "groups": rows}


def from_scratch(folder, study, chosen, seeds, workers, first=0):
    """Mean validation accuracy of each over the seeds; a training that fails counts as 0."""
    wanted = [(one, SEED + first + seed) for _, one in chosen for seed in range(seeds)]
    with Executor(folder / PROXY_TASK, workers) as executor:
        outcomes = trained(executor, study, wanted, "race")
    values = [outcome.metrics.get("accuracy", 0.0) for outcome in outcomes]
    return [statistics.fmean(values[index : index + seeds]) for index in range(0, len(values), seeds)]


def summary(groups, chosen, values):
    """The best tenth's threshold, and how many of each group reach it."""
    away = sum(len(members) for name, members in groups.items() if name != "kept")
    sizes = {"kept": len(groups["kept"]), "away": away}
    sampled = {"kept": sum(name == "kept" for name, _ in chosen), "away": sum(name != "kept" for name, _ in chosen)}
    weights = np.array([
        sizes["kept" if name == "kept" else "away"] / sampled["kept" if name == "kept" else "away"]
        for name, _ in chosen
    ])  # fmt: skip
    order = np.argsort(-np.array(values))
    reached = np.cumsum(weights[order]) / weights.sum()
    threshold = values[order[int(np.searchsorted(reached, 0.1))]]
    rows = {}
    for name in (*groups, "turned away"):
        mine = [v for (group, _), v in zip(chosen, values, strict=True)
                if group == name or (name == "turned away" and group != "kept")]  # fmt: skip
        if not mine:
            continue
        good = sum(value >= threshold for value in mine)
        upper = float(stats.beta.ppf(0.95, good + 1, max(1, len(mine) - good)))
        rows[name] = {"in_the_run": away if name == "turned away" else len(groups[name]), "trained": len(mine),
                      "mean_accuracy": statistics.fmean(mine), "median_accuracy": statistics.median(mine),
                      "in_best_tenth": good, "share": good / len(mine), "upper": upper}  # fmt: skip
    return {"threshold": threshold, "groups": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=200, help="candidates of each of the two groups")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--proxy", action="store_true", help="train with the search's proxy")
    parser.add_argument("--again", type=int, metavar="N", help="more seeds for the best of an earlier start")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "rejected.json")
    given = parser.parse_args()
    study = Study(given.folder)
    if given.again:
        found = json.loads(given.output.read_text(encoding="utf-8"))
        found["again"] = again(given.folder, study, found, given.again, given.workers)
        given.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(json.dumps(found["again"], indent=1))
        return
    groups = groups_of(study)
    chosen = drawn(groups, given.most)
    if given.proxy:
        values = after_the_proxy(given.folder, study, chosen, given.workers)
    else:
        values = from_scratch(given.folder, study, chosen, given.seeds, given.workers)
    found = {
        "task": study.settings.task,
        "training": "proxy" if given.proxy else "from scratch",
        "seeds": given.seeds,
        **summary(groups, chosen, values),
    }
    found["rows"] = [{"group": name, "digest": one.digest, "accuracy": value}
                     for (name, one), value in zip(chosen, values, strict=True)]  # fmt: skip
    given.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "rows"}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
