"""From the results of trainings to the numbers that the study reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from correlation import MEASURES, bootstrap, cross_validated, difference, reliability
from trainings import Store

METRICS = ("cross_entropy", "sharpness_gap", "cka_gap")
COMBINATIONS: dict[str, tuple[int, ...]] = {
    "CE": (0,), "S": (1,), "CKA": (2,), "CE+S": (0, 1), "CE+CKA": (0, 2), "S+CKA": (1, 2), "CE+S+CKA": (0, 1, 2),
}  # fmt: skip
# As in the package's fitness.
FLOOR = 1e-3
BASELINE = "ce"
# A short rung may lose this share of the best tenth.
LOSS, BEST = 0.02, 0.1


@dataclass
class Results:
    """What was measured on one task."""

    store: Store
    chosen: list[str]
    pool: list[str]
    kinds: dict[str, str]
    classes: int

    @classmethod
    def read(cls, folder: Path, task: str, classes: int) -> Results:
        """The results of a task that has been run."""
        known = json.loads((folder / f"{task}_candidates.json").read_text(encoding="utf-8"))
        names = [c["name"] for c in known["candidates"]]
        kinds = {c["name"]: c["kind"] for c in known["candidates"]}
        return cls(Store(folder / f"{task}.jsonl"), known["chosen"], names, kinds, classes)

    def seeds(self, stage: str) -> list[int]:
        """The seeds of cross-entropy alone at a stage."""
        return sorted(seed for name, where, seed in self.store.records if (name, where) == (BASELINE, stage))

    def complete(self, stage: str, names: Iterable[str], seeds: Sequence[int]) -> list[str]:
        """Those of ``names`` that were trained at a stage with all seeds."""
        return [name for name in names if all(self.store.get(name, stage, seed) for seed in seeds)]

    def cost(self, stage: str, names: Sequence[str], seed: int) -> float:
        """Mean CPU seconds of one training."""
        return float(np.mean([self.store.records[name, stage, seed]["cpu"] for name in names]))

    def relative(self, stage: str, names: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Metrics relative to cross-entropy alone, distillers × (CE, S, CKA, error, and the cross-entropy at the best
        temperature where it was measured), mean over seeds; a training that failed counts as the worst one."""
        columns = (*METRICS, "error")
        if "calibrated" in self.store.records[BASELINE, stage, self.seeds(stage)[0]]["metrics"]:
            columns += ("calibrated",)

        def numbers(name: str, seed: int) -> list[float]:
            record = self.store.records[name, stage, seed]
            if record["reason"]:
                return [np.nan] * len(columns)
            found = record["metrics"] | {"error": 1.0 - record["metrics"]["accuracy"]}
            return [found[column] for column in columns]

        base = np.mean([numbers(BASELINE, seed) for seed in self.seeds(stage)], axis=0)
        values = np.array([[numbers(name, seed) for name in names] for seed in seeds]) / np.maximum(base, FLOOR)
        worst = np.nanmax(values, axis=(0, 1))
        return np.where(np.isnan(values), worst, values).mean(0)

    def truth(self, names: Sequence[str], seeds: Sequence[int], metric: str = "accuracy") -> np.ndarray:
        """A metric after the long trainings, distillers × seeds; a failed one counts as guessing."""
        records = [[self.store.records[name, "long", seed] for seed in seeds] for name in names]
        return np.array([[r["metrics"].get(metric, 1 / self.classes) for r in row] for row in records])


def combined(metrics: np.ndarray, parts: Sequence[int], form: str = "sum") -> np.ndarray:
    """The score of a combination, higher is better: minus the mean of the metrics, or of their logarithms."""
    chosen = metrics[:, list(parts)]
    return -(chosen if form == "sum" else np.log(np.maximum(chosen, FLOOR))).mean(1)


def table(metrics: np.ndarray, truth: np.ndarray, times: int = 2000) -> dict[str, Any]:
    """Table 1: each combination, as a sum and as a geometric mean, with its correlations."""
    rows = COMBINATIONS | {"error": (3,), "CE+error": (0, 3), "CE+S+CKA+error": (0, 1, 2, 3)}
    if metrics.shape[1] > 4:
        rows |= {"calibrated": (4,), "calibrated+CKA": (2, 4), "calibrated+S+CKA": (1, 2, 4)}
    return {
        f"{name} {form}": {
            measure: bootstrap(measure, combined(metrics, parts, form), truth, times).as_list() for measure in MEASURES
        }
        for form in ("sum", "log")
        for name, parts in rows.items()
    }


def stages(results: Results, names: Sequence[str], truth: np.ndarray, sets: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Every proxy tried: CPU seconds and the correlation of its combinations (with intervals for the equal sum)."""
    found: dict[str, Any] = {}
    for stage in sorted({where for _, where, _ in results.store.records} - {"long"}):
        for seeds in sets:
            if len(results.complete(stage, names, seeds)) < len(names):
                continue
            metrics = results.relative(stage, names, seeds)
            row: dict[str, Any] = {"cpu": round(len(seeds) * results.cost(stage, names, seeds[0]), 4)}
            for form in ("sum", "log"):
                for name, parts in COMBINATIONS.items():
                    score = combined(metrics, parts, form)
                    row[f"{name} {form}"] = {m: round(float(f(score, truth)), 4) for m, f in MEASURES.items()}
            row["interval"] = bootstrap("spearman", combined(metrics, (0, 1, 2)), truth, 1000).as_list()
            row["interval CE"] = bootstrap("spearman", combined(metrics, (0,)), truth, 1000).as_list()
            found.setdefault(f"{stage} × {len(seeds)}", row)
    return found


def weights(metrics: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Fitted weights against the equal sum, out of fold, for sums and geometric means, with and without the error."""
    found = {}
    logs = np.log(np.maximum(metrics, FLOOR))
    equal = combined(metrics, (0, 1, 2))
    for measure in ("spearman", "kendall"):
        for name, columns in {
            "sum": metrics[:, :3],
            "log": logs[:, :3],
            "sum+error": metrics[:, :4],
            "log+error": logs[:, :4],
        }.items():
            if measure == "kendall" and "error" in name:
                continue
            found[f"{measure} {name}"] = cross_validated(measure, columns, truth, equal, repeats=10)
    for name, parts in COMBINATIONS.items():
        for form in ("sum", "log"):
            gain = difference("spearman", combined(metrics, parts, form), equal, truth)
            found[f"fixed {name} {form} against equal sum"] = gain.as_list()
    return found


def lost(short: np.ndarray, best: np.ndarray, keep: float) -> float:
    """The share of the ``best`` (boolean) that is rejected when the best ``keep`` of all by ``short`` go on."""
    kept = np.argsort(-short, kind="stable")[: max(1, round(keep * len(short)))]
    mask = np.zeros(len(short), bool)
    mask[kept] = True
    return float(1 - (mask & best).sum() / best.sum())


def top(values: np.ndarray, share: float = BEST) -> np.ndarray:
    """Which are among the best ``share``."""
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-values, kind="stable")[: max(1, round(share * len(values)))]] = True
    return mask


def rung(short: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """How few a short proxy may let through: the smallest keep-fraction that loses at most 2 % of the best tenth by
    ``full``, its bootstrap interval, and the fitness that all but 2 % of the best tenth stay below."""
    grid = np.arange(0.1, 1.001, 0.01)
    best = top(full)

    def smallest(s: np.ndarray, b: np.ndarray) -> float:
        losses = np.array([lost(s, b, q) for q in grid])
        above = np.flatnonzero(losses > LOSS)
        return float(grid[above[-1] + 1]) if len(above) and above[-1] + 1 < len(grid) else float(grid[0])

    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, len(full), len(full)) for _ in range(100)]
    bootstrapped = [smallest(short[d], top(full[d])) for d in drawn]
    bound = float(np.quantile(-short[best], 1 - LOSS))
    return {
        "n": len(full),
        "keep": round(smallest(short, best), 2),
        "keep_interval": [round(float(q), 2) for q in np.quantile(bootstrapped, [0.025, 0.975])],
        "loss_at": {f"{q:.2f}": round(lost(short, best, q), 3) for q in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)},
        "bound": round(bound, 4),
        "rejected_by_bound": round(float((-short > bound).mean()), 3),
        "spearman": round(float(MEASURES["spearman"](short, full)), 4),
    }


__all__ = ["COMBINATIONS", "Results", "combined", "reliability", "rung", "stages", "table", "top", "weights"]
