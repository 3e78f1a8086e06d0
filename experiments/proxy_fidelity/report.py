"""Tables and figure of a task from the results on the disk, whatever is complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from analysis import BEST, COMBINATIONS, Results, combined, reliability, rung, stages, table, top, weights
from correlation import MEASURES, bootstrap, difference
from figure import draw

CLASSES = {"digits": 10, "cifar100": 100}
# The proxies whose tables are computed in full, and the seed (or seeds) of the trainings.
MAIN = {
    "digits": (
        ("warm6-5", (1,)),
        ("warm6-5", (0, 1)),
        ("warm6-12", (1,)),
        ("scratch-5", (1,)),
        ("scratch-12", (1,)),
    ),
    "cifar100": (("warm15-tail2", (0,)), ("warm15-tail2", (0, 1)), ("warm7-2", (0,)), ("warm1-3", (0,))),
}
# Fewer distillers make no table.
LEAST = 8
# The seeds with which every proxy is looked at.
SETS = {"digits": ((1,), (0, 1), (1, 2)), "cifar100": ((0,), (1,), (0, 1))}
# The share of the distillers, best first by the long training, among which the ranks are looked at again.
GOOD = 0.5
# Below this accuracy a long training was destroyed.
DESTROYED = {"digits": 0.6, "cifar100": 0.05}
# The least distance of the logarithms of two cross-entropies in the spaced part.
GAP = 0.03
# Weights that lean on CE, to be compared with equal ones.
HEAVY = (0.6, 0.2, 0.2)
# Bounds on S + CKA after a short proxy that are looked at, relative to cross-entropy alone.
BOUNDS = (0.9, 0.95, 1.0, 1.05)


def report(task: str, folder: Path, say: Callable[[str], None]) -> None:
    """Compute and write ``<task>.json`` and ``<task>.png``."""
    results = Results.read(folder, task, CLASSES[task])
    seeds = results.seeds("long")
    while seeds and len(results.complete("long", results.chosen, seeds)) < len(results.chosen) and len(seeds) > 1:
        seeds = seeds[:-1]
    first_stage, first_seeds = MAIN[task][0]
    names = results.complete("long", results.complete(first_stage, results.chosen, first_seeds), seeds)
    names = [name for name in names if not results.store.records[name, first_stage, first_seeds[0]]["reason"]]
    if len(names) < LEAST:
        say(f"{len(names)} distillers have their long trainings; tables need {LEAST}")
        return
    truth = results.truth(names, seeds)
    summary: dict[str, Any] = {
        "n": len(names),
        "truth_seeds": seeds,
        "truth_range": [round(float(v), 4) for v in (truth.mean(1).min(), truth.mean(1).max())],
        "cross_entropy_alone": round(float(results.truth(["ce"], seeds).mean()), 4),
        "names": names,
        "kinds": {kind: sum(results.kinds[n] == kind for n in names) for kind in ("zoo", "random", "varied")},
    }
    if len(seeds) > 1:
        summary["reliability"] = reliability(truth)
    summary["tables"] = {}
    for stage, of in MAIN[task]:
        if len(results.complete(stage, names, of)) == len(names):
            key = f"{stage} × {len(of)}"
            say(f"table of {key}, {len(names)} distillers, {len(seeds)} long seeds")
            summary["tables"][key] = table(results.relative(stage, names, of), truth.mean(1))
            show(summary["tables"][key], say)
    summary["parts"] = parts_of(results, task, names, truth.mean(1))
    summary["stages"] = stages(results, names, truth.mean(1), SETS[task])
    for name, row in summary["stages"].items():
        values = " ".join(
            f"{c} {row[f'{c} sum']['spearman']:.3f}/{row[f'{c} log']['spearman']:.3f}" for c in COMBINATIONS
        )
        say(f"{name:14} {row['cpu']:7.3f} s  {values} r_log {row['CE+S+CKA log']['pearson']:.3f}")
    summary["compared"] = compared(results, task, names, truth)
    if task == "digits":
        summary["rungs"] = rungs(results, say)
        summary["rungs_truth"] = rungs_by_truth(results, names, truth.mean(1))
        summary["test"] = on_test(results, names, seeds)
        summary["weights"] = {}
        for stage, of in MAIN[task][:2]:
            summary["weights"][f"{stage} × {len(of)}"] = weights(results.relative(stage, names, of), truth.mean(1))
        for key, rows in summary["weights"].items():
            for name, row in rows.items():
                say(f"{key} {name}: {json.dumps(row)}")
    draw(results, summary, first_stage, list(first_seeds), folder / f"{task}.png")
    (folder / f"{task}.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(rows: dict[str, Any], say: Callable[[str], None]) -> None:
    """Print a table 1."""
    for name, row in rows.items():
        say(f"  {name:20} " + "  ".join(f"{m} {v:.3f} [{a:.3f}, {b:.3f}]" for m, (v, a, b) in row.items()))


def parts_of(results: Results, task: str, names: list[str], truth: np.ndarray) -> dict[str, Any]:
    """The same correlations on parts: the better half alone, where a search spends its time; without those that the
    long training destroyed; and spaced out, so that the many that do next to nothing count once."""
    stage, seeds = MAIN[task][0]
    first = np.array([results.store.records[name, stage, 0]["metrics"]["cross_entropy"] for name in names])
    where = {
        "good half": top(truth, GOOD),
        "not destroyed": truth > DESTROYED[task],
        "spaced": spaced(np.log(first), GAP),
    }
    found: dict[str, Any] = {}
    for stage, seeds in MAIN[task]:
        if len(results.complete(stage, names, seeds)) < len(names):
            continue
        metrics = results.relative(stage, names, seeds)
        for part, mask in where.items():
            row: dict[str, Any] = {"n": int(mask.sum())}
            for form in ("sum", "log"):
                for name, of in COMBINATIONS.items():
                    score = combined(metrics[mask], of, form)
                    row[f"{name} {form}"] = {
                        m: bootstrap(m, score, truth[mask], 1000).as_list() for m in ("pearson", "spearman")
                    }
            found[f"{stage} × {len(seeds)}, {part}"] = row
    return found


def compared(results: Results, task: str, names: list[str], seeds: np.ndarray) -> dict[str, Any]:
    """Every proxy against the first one (Spearman, paired), what more weight on CE would gain, and how good its fittest
    tenth truly is."""
    truth = seeds.mean(1)
    good, best = top(truth, GOOD), top(truth)
    found: dict[str, Any] = {"best tenth, truly": round(float(truth[best].mean()), 4)}
    if seeds.shape[1] > 1:
        found["reliability of the good half"] = reliability(seeds[good])
    of = SETS[task][0]
    first = results.relative(MAIN[task][0][0], names, of)
    for stage in sorted({where for _, where, _ in results.store.records} - {"long"}):
        if len(results.complete(stage, names, of)) < len(names):
            continue
        metrics = results.relative(stage, names, of)
        equal, heavy = combined(metrics, (0, 1, 2)), -(metrics[:, :3] @ np.array(HEAVY))
        found[stage] = {"heavy against equal": difference("spearman", heavy, equal, truth).as_list()}
        for name in ("CE", "S+CKA", "CE+S+CKA"):
            score = combined(metrics, COMBINATIONS[name])
            base = combined(first, COMBINATIONS[name])
            found[stage][name] = {
                "against the first proxy": difference("spearman", score, base, truth).as_list(),
                "good half": round(float(MEASURES["spearman"](score[good], truth[good])), 4),
                "true mean of its best tenth": round(float(truth[top(score)].mean()), 4),
                "rejected at bound 1": round(float((-score > 1).mean()), 4),
                "best tenth and quarter lost at bound 1": [
                    round(float((-score[top(truth, share)] > 1).mean()), 4) for share in (BEST, 0.25)
                ],
            }
    return found


def spaced(values: np.ndarray, gap: float) -> np.ndarray:
    """Which are kept when each must be ``gap`` above the last one kept."""
    mask, last = np.zeros(len(values), bool), -np.inf
    for index in np.argsort(values, kind="stable"):
        if values[index] >= last + gap:
            mask[index], last = True, values[index]
    return mask


def rungs(results: Results, say: Callable[[str], None]) -> dict[str, Any]:
    """Short proxies against full ones over the whole pool."""
    found = {}
    for short in ("warm6-1", "warm6-2", "warm6-3", "warm12-1"):
        full = f"{short.split('-')[0]}-5"
        for of in ((0, 1), (0,)):
            both = results.complete(full, results.complete(short, results.pool, (0,)), of)
            if len(both) < 0.95 * len(results.pool):
                continue
            ahead = combined(results.relative(full, both, of), (0, 1, 2), "sum")
            cost = results.cost(short, both, 0) / results.cost(full, both, 0)
            for form in ("sum", "log"):
                for name, parts in COMBINATIONS.items():
                    score = combined(results.relative(short, both, (0,)), parts, form)
                    row = rung(score, ahead) | {"cost": round(cost, 3)}
                    found[f"{short} → {full} × {len(of)}, {name} {form}"] = row
                    say(f"{short} → {full} × {len(of)} {name} {form}: {json.dumps(row)}")
            early = combined(results.relative(short, both, (0,)), (1, 2))
            found[f"{short} → {full} × {len(of)}, bounds on S+CKA"] = bounds(results, both, early, ahead)
    return found


def bounds(results: Results, names: list[str], short: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """What a bound on a short proxy's fitness rejects, of all and of the best tenth; in the whole pool and among the
    children of good parents alone."""
    varied = np.array([results.kinds[name] == "varied" for name in names])
    found = {}
    for part, mask in (("pool", np.ones(len(names), bool)), ("varied", varied), ("first generation", ~varied)):
        over = {bound: -short[mask] > bound for bound in BOUNDS}
        best, n = top(full[mask]), int(mask.sum())
        found[part] = {
            f"{bound:g}": {"n": n, "rejected": round(float(o.mean()), 3), "lost": round(float(o[best].mean()), 3)}
            for bound, o in over.items()
        }
    return found


def rungs_by_truth(results: Results, names: list[str], truth: np.ndarray) -> dict[str, Any]:
    """The same for those that were trained for long: the rank, as a share of all, that the worst of the truly best
    tenth has after a short proxy."""
    found = {}
    best = top(truth)
    for stage in ("warm6-1", "warm6-2", "warm6-3", "warm6-5", "warm12-1", "warm12-2", "warm12-3", "warm12-5"):
        if len(results.complete(stage, names, (1,))) < len(names):
            continue
        metrics = results.relative(stage, names, (1,))
        for name, parts in COMBINATIONS.items():
            ranks = np.argsort(np.argsort(-combined(metrics, parts))) / len(names)
            found[f"{stage} {name}"] = {
                "worst_rank_of_best_tenth": round(float(ranks[best].max()), 3),
                "their_ranks": sorted(round(float(r), 2) for r in ranks[best]),
            }
    return found


def on_test(results: Results, names: list[str], seeds: list[int]) -> dict[str, Any]:
    """Spearman with the accuracy on test images instead of validation images; nothing is chosen by it."""
    test = results.truth(names, seeds, "test_accuracy").mean(1)
    found = {}
    for stage, of in MAIN["digits"]:
        if len(results.complete(stage, names, of)) == len(names):
            metrics = results.relative(stage, names, of)
            for name, parts in COMBINATIONS.items():
                for form in ("sum", "log"):
                    found[f"{stage} × {len(of)} {name} {form}"] = bootstrap(
                        "spearman", combined(metrics, parts, form), test, 1000
                    ).as_list()
    return found
