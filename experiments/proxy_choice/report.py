"""Turns ``results.json`` into ``summary.json``, a table on the screen and ``frontier.png``.

python experiments/proxy_choice/report.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from proxies import GROUPS, TRUTH, TUNED
from scipy.stats import spearmanr

HERE = Path(__file__).parent
# Predictors: the metrics whose sum, each relative to that of cross-entropy alone, ranks the distillers.
SUMS = {
    "cross_entropy": ("cross_entropy",),
    "calibrated": ("calibrated",),
    "sharpness_gap": ("sharpness_gap",),
    "cka_gap": ("cka_gap",),
    "fitness": ("cross_entropy", "sharpness_gap", "cka_gap"),
    "cross_entropy + cka_gap": ("cross_entropy", "cka_gap"),
    "calibrated fitness": ("calibrated", "sharpness_gap", "cka_gap"),
    "calibrated + cka_gap": ("calibrated", "cka_gap"),
    "calibrated + sharpness_gap": ("calibrated", "sharpness_gap"),
}
HIGHER_IS_BETTER = ("accuracy", "top5", "agreement", "readout")
PREDICTORS = (*HIGHER_IS_BETTER, "teacher_kl", *SUMS)
DRAWN = ("accuracy", "cross_entropy", "calibrated", "fitness", "calibrated + cka_gap")
BOOTSTRAP = 2000
# Standard deviations of the published numbers that are tried, in points of accuracy.
TRUTH_NOISE = (0.1, 0.15, 0.25)
# Set behind the name of the finalist for trainings from warm students that took no part in the choice.
FRESH = " (fresh warm students)"

Metrics = Mapping[str, float]


def score(predictor: str, metrics: Metrics | None, baseline: Metrics) -> float:
    """What a predictor says of one training, lower is better; a training that failed comes last."""
    if metrics is None:
        return float("inf")
    if predictor in HIGHER_IS_BETTER:
        return -metrics[predictor]
    return sum(metrics[name] / baseline[name] for name in SUMS.get(predictor, (predictor,)))


def rank_fidelity(scores: Mapping[str, float], without: str = "") -> float:
    """Spearman correlation with the published accuracies."""
    losses = [loss for loss in TRUTH if loss != without]
    # a failed training shares the last rank
    return float(spearmanr([-min(scores[loss], 1e9) for loss in losses], [TRUTH[loss] for loss in losses]).statistic)


def measured(rows: list[dict[str, Any]]) -> dict[tuple[str, int, str], dict[tuple[int, int], dict[str, Any]]]:
    """By proxy, steps and kind of weights, then by warm seed and seed: scores by predictor and loss, and seconds."""
    cells: dict[tuple[str, int, int], dict[str, Any]] = defaultdict(dict)
    for row in rows:
        cells[row["proxy"], row["warm_seed"], row["seed"]][row["loss"]] = row["points"]
    found: dict[tuple[str, int, str], dict[tuple[int, int], dict[str, Any]]] = defaultdict(dict)
    for (proxy, warm_seed, seed), by_loss in cells.items():
        if set(by_loss) != set(TRUTH):
            continue
        for index, point in enumerate(by_loss["ce"]):
            at = {loss: points[index] if points else None for loss, points in by_loss.items()}
            scores = {
                p: {loss: score(p, x and x["metrics"], point["metrics"]) for loss, x in at.items()} for p in PREDICTORS
            }
            seconds = float(np.mean([x["seconds"] for x in at.values() if x]))
            place = found[proxy, point["steps"], point["kind"]]
            place[warm_seed, seed] = {"scores": scores, "seconds": seconds}
    return found


def interval(cells: Mapping[tuple[int, int], float]) -> list[float]:
    """95 % bootstrap interval of the mean: warm students are drawn, and seeds within each."""
    random = np.random.default_rng(0)
    by_warm: dict[int, list[float]] = defaultdict(list)
    for (warm_seed, _), value in cells.items():
        by_warm[warm_seed].append(value)
    groups = list(by_warm.values())
    means = []
    for _ in range(BOOTSTRAP):
        drawn = [groups[i] for i in random.integers(len(groups), size=len(groups))]
        means.append(np.mean(np.concatenate([random.choice(group, len(group)) for group in drawn])))
    return [float(x) for x in np.percentile(means, [2.5, 97.5])]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per proxy and point: seconds, and for each predictor the fidelity of single trainings (mean, interval)
    and of the scores averaged over all trainings."""
    result = []
    for (proxy, steps, kind), cells in measured(rows).items():
        entry: dict[str, Any] = {"proxy": proxy, "steps": steps, "weights": kind, "trainings": len(cells)}
        entry["seconds"] = round(float(np.mean([cell["seconds"] for cell in cells.values()])), 1)
        for predictor in PREDICTORS:
            single = {key: rank_fidelity(cell["scores"][predictor]) for key, cell in cells.items()}
            together = {loss: float(np.mean([c["scores"][predictor][loss] for c in cells.values()])) for loss in TRUTH}
            # at magnitude 1 FitNet is another loss than the published one, whose weight 100 is 50 times as strong
            others = [rank_fidelity(cell["scores"][predictor], "fitnet") for cell in cells.values()]
            means = {"spearman": np.mean(list(single.values())), "without_fitnet": np.mean(others)}
            entry[predictor] = {name: round(float(value), 3) for name, value in means.items()}
            if len(cells) > 1:
                entry[predictor]["interval"] = [round(x, 3) for x in interval(single)]
                entry[predictor]["averaged"] = round(rank_fidelity(together), 3)
        result.append(entry)
    return sorted(result, key=lambda entry: (entry["proxy"], entry["steps"], entry["weights"]))


def ceiling(noise: float) -> dict[str, Any]:
    """Spearman of the published numbers with themselves after normal noise of this deviation: mean, 95 % range."""
    random, truth = np.random.default_rng(0), np.array(list(TRUTH.values()))
    found = [spearmanr(truth, truth + random.normal(0, noise, len(truth))).statistic for _ in range(BOOTSTRAP)]
    low, high = np.percentile(found, [2.5, 97.5])
    return {"noise": noise, "spearman": round(float(np.mean(found)), 3), "range": [round(low, 3), round(high, 3)]}


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    """Fidelity against seconds, with the frontier over all proxies for every predictor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=120)
    for predictor, marker in zip(DRAWN, "osD^v", strict=True):
        points = sorted((entry["seconds"], entry[predictor]["spearman"], entry["proxy"]) for entry in entries)
        line = axes.plot([p[0] for p in points], [p[1] for p in points], marker, alpha=0.45, label=predictor)[0]
        best, frontier = -1.0, []
        for seconds, value, _ in points:
            if value > best:
                best = value
                frontier.append((seconds, value))
        axes.step(*zip(*frontier, strict=True), where="post", color=line.get_color(), linewidth=1.2)
    axes.axhline(ceiling(0.25)["spearman"], color="grey", linestyle=":", label="published numbers ± 0.25 points")
    axes.set(xscale="log", xlabel="CPU seconds per candidate (one thread)", ylim=(-0.7, 1.0))
    ticks = (2, 3, 5, 7, 10, 15, 20)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    fresh = [(e["seconds"], e[p]["spearman"]) for e in entries for p in DRAWN if e["proxy"].endswith(FRESH)]
    if fresh:
        axes.scatter(
            *zip(*fresh, strict=True), s=90, facecolors="none", edgecolors="black", label="fresh warm students"
        )
    axes.set_ylabel("Spearman with the published ranking (mean of single trainings)")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def tuned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each loss the magnitude with the lowest calibrated cross-entropy, as a search tunes; seconds of all."""
    found = defaultdict(list)
    for row in rows:
        if row["proxy"] in TUNED and row["points"]:
            found[row["warm_seed"], row["seed"], row["loss"]].append(row)
    best = []
    for same in found.values():
        if len(same) < len(TUNED):
            continue
        row = min(same, key=lambda one: one["points"][0]["metrics"]["calibrated"])
        # cross-entropy alone has no magnitude
        times = 1 if row["loss"] == "ce" else len(same)
        points = [point | {"seconds": times * point["seconds"]} for point in row["points"]]
        best.append(row | {"proxy": f"{TUNED[0]} (best of 0.3, 1, 3)", "points": points})
    return best


def main() -> None:
    rows = json.loads((HERE / "results.json").read_text())["rows"]
    rows += tuned(rows)
    for row in rows:
        # apart from the training that the choice was made on
        if row["proxy"] in GROUPS["finalist"] and row["warm_seed"] > 0:
            row["proxy"] += FRESH
    entries = summary(rows)
    content = {"proxies": entries, "ceiling": [ceiling(noise) for noise in TRUTH_NOISE]}
    (HERE / "summary.json").write_text(json.dumps(content, indent=1) + "\n")
    shown = ("accuracy", "cross_entropy", "calibrated", "sharpness_gap", "cka_gap", "fitness", "calibrated + cka_gap")
    print("| proxy | steps | weights | n | CPU s | " + " | ".join(shown) + " |")
    print("|---|---|---|---|---|" + "---|" * len(shown))
    for e in entries:
        numbers = " | ".join(f"{e[p]['spearman']:.2f}" for p in shown)
        print(f"| {e['proxy']} | {e['steps']} | {e['weights']} | {e['trainings']} | {e['seconds']} | {numbers} |")
    print(json.dumps(content["ceiling"]))
    for entry in entries:
        if entry["proxy"].endswith(FRESH):
            print(entry["weights"], json.dumps({predictor: entry[predictor] for predictor in PREDICTORS}, indent=0))
    draw(entries, HERE / "frontier.png")


if __name__ == "__main__":
    main()
