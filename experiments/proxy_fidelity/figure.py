"""The figure of the study: truth against fitness, and fidelity against cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from analysis import Results, combined

COLOURS = {"zoo": "#0072b2", "random": "#d55e00", "varied": "#009e73"}


def draw(results: Results, summary: dict[str, Any], stage: str, seeds: list[int], path: Path) -> None:
    """Left: each distiller's fitness after the proxy and its accuracy after the long training. Right: what every
    proxy costs and how well it ranks."""
    mpl.use("agg")
    from matplotlib import pyplot, ticker

    names, truth_seeds = summary["names"], summary["truth_seeds"]
    truth = results.truth(names, truth_seeds)
    score = -combined(results.relative(stage, names, seeds), (0, 1, 2))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for kind, colour in COLOURS.items():
        of = np.array([results.kinds[name] == kind for name in names])
        error = 100 * (1 - truth[of].mean(1))
        half = 196 * truth[of].std(1, ddof=1) / np.sqrt(truth.shape[1]) if truth.shape[1] > 1 else 0 * error
        # bars end above 0, which a logarithmic axis cannot show
        bars = [np.minimum(half, 0.8 * error), half]
        left.errorbar(score[of], error, bars, fmt="o", ms=4, lw=0.7, color=colour, label=f"{kind} ({of.sum()})")
    left.axvline(1, color="0.7", lw=0.8, zorder=0)
    left.axhline(100 * (1 - summary["cross_entropy_alone"]), color="0.7", lw=0.8, zorder=0)
    left.set(
        xscale="log", yscale="log", xlabel=f"fitness after {stage} (1: cross-entropy alone)",
        ylabel="final validation error, % (bars: 95 % over seeds)",
    )  # fmt: skip
    for axis in (left.xaxis, left.yaxis):
        for which in ("major", "minor"):
            getattr(axis, f"set_{which}_formatter")(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    left.legend(frameon=False)
    marks = {
        "warm3": "v",
        "warm6": "o",
        "warm12": "s",
        "warm24": "^",
        "warm7": "o",
        "warm15": "s",
        "warm1": "P",
        "scratch": "x",
    }
    for name, row in summary["stages"].items():
        start, rest = name.split("-")
        for column, colour in (("CE+S+CKA sum", "#0072b2"), ("CE sum", "#cc79a7")):
            place = (row["cpu"], row[column]["spearman"])
            right.scatter(*place, marker=marks[start], color=colour, s=28, alpha=0.9)
            right.annotate(rest.replace(" × 1", ""), place, (3, 3), textcoords="offset points", fontsize=7)
    for name, colour in (("CE+S+CKA", "#0072b2"), ("CE", "#cc79a7")):
        right.scatter([], [], marker="_", color=colour, label=name)
    used = {name.split("-")[0] for name in summary["stages"]}
    for start, mark in marks.items():
        if start in used:
            right.scatter([], [], marker=mark, color="0.3", label=start)
    right.set(xscale="log", xlabel="CPU seconds a candidate", ylabel="Spearman with final accuracy")
    right.legend(frameon=False, title="numbers: epochs × seeds")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
