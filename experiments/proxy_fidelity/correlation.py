"""Correlations with bootstrap intervals over distillers, and weights that are fitted and tested on different ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
# Weights are searched on a grid of this step.
STEP = 0.05


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis; 0 where one side does not vary."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.where(scale > 0, (x * y).sum(-1) / np.where(scale > 0, scale, 1.0), 0.0)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's ρ along the last axis, equal values with their mean rank."""
    return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's τ-b along the last axis."""

    def signs(values: np.ndarray) -> np.ndarray:
        return np.sign(values[..., :, None] - values[..., None, :]).astype(np.float32)

    one, other = signs(x), signs(y)
    both = (one * other).sum((-1, -2))
    return both / np.sqrt(np.maximum((one**2).sum((-1, -2)) * (other**2).sum((-1, -2)), 1.0))


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "pearson": pearson, "spearman": spearman, "kendall": kendall,
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A value with the 95 % percentile interval of its bootstrap."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        return [round(v, 4) for v in (self.value, self.low, self.high)]


def resamples(count: int, times: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Indices of bootstrap samples, times × count; the same for everything compared."""
    return np.random.default_rng(seed).integers(0, count, (times, count))


def bootstrap(measure: str, score: np.ndarray, truth: np.ndarray, times: int = RESAMPLES) -> Estimate:
    """A correlation of ``score`` with ``truth``, and its interval over distillers."""
    function = MEASURES[measure]
    drawn = resamples(len(truth), times)
    values = np.concatenate([function(score[part], truth[part]) for part in np.array_split(drawn, 20)])
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(function(score, truth)), float(low), float(high))


def difference(measure: str, one: np.ndarray, other: np.ndarray, truth: np.ndarray) -> Estimate:
    """How much better ``one`` correlates than ``other``, with the interval of the paired bootstrap."""
    function = MEASURES[measure]
    drawn = np.array_split(resamples(len(truth)), 20)
    values = np.concatenate([function(one[part], truth[part]) - function(other[part], truth[part]) for part in drawn])
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(function(one, truth) - function(other, truth)), float(low), float(high))


def reliability(seeds: np.ndarray, splits: int = 500) -> dict[str, float]:
    """Split-half reliability of the mean over seeds (distillers × seeds), stepped up by Spearman and Brown.

    The root of it bounds the correlation that a perfect predictor could reach.
    """
    generator = np.random.default_rng(0)
    half = seeds.shape[1] // 2
    found: dict[str, list[float]] = {"pearson": [], "spearman": []}
    for _ in range(splits):
        order = generator.permutation(seeds.shape[1])
        one, other = seeds[:, order[:half]].mean(1), seeds[:, order[half : 2 * half]].mean(1)
        for name in found:
            found[name].append(float(MEASURES[name](one, other)))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {name: 2 * r / (1 + r) for name, r in means.items()}


def simplex(parts: int, step: float = STEP) -> np.ndarray:
    """All weights on the grid, each ≥ 0, that sum to 1."""
    whole = round(1 / step)
    points = [p for p in itertools.product(range(whole + 1), repeat=parts - 1) if sum(p) <= whole]
    return np.array([(*p, whole - sum(p)) for p in points]) / whole


def best_weights(measure: str, metrics: np.ndarray, truth: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The weights of ``metrics`` (distillers × metrics, lower is better) with the best correlation; the mean of the
    grid points within 0.001 of it, since the optimum is flat."""
    values = MEASURES[measure](-(grid @ metrics.T), np.broadcast_to(truth, (len(grid), len(truth))))
    return grid[values >= values.max() - 1e-3].mean(0)


def cross_validated(
    measure: str, metrics: np.ndarray, truth: np.ndarray, reference: np.ndarray, repeats: int = 20, folds: int = 5
) -> dict[str, object]:
    """Out-of-fold gain of fitted weights over the scores ``reference``.

    ``gain``: mean over repeated k-fold splits of the difference on the fold that was left out; the interval is that of
    bootstrap samples, fitted on what was drawn and tested on what was not.
    """
    grid, function = simplex(metrics.shape[1]), MEASURES[measure]
    generator = np.random.default_rng(0)
    fold_gains, fitted = [], []
    for _ in range(repeats):
        for fold in np.array_split(generator.permutation(len(truth)), folds):
            train = np.setdiff1d(np.arange(len(truth)), fold)
            weights = best_weights(measure, metrics[train], truth[train], grid)
            fitted.append(weights)
            fold_gains.append(
                function(-(metrics[fold] @ weights), truth[fold]) - function(reference[fold], truth[fold])
            )
    gains = []
    for drawn in resamples(len(truth), 200, seed=1):
        left = np.setdiff1d(np.arange(len(truth)), drawn)
        weights = best_weights(measure, metrics[drawn], truth[drawn], grid)
        gains.append(function(-(metrics[left] @ weights), truth[left]) - function(reference[left], truth[left]))
    low, high = np.quantile(gains, [0.025, 0.975])
    return {
        "gain": round(float(np.mean(fold_gains)), 4),
        "gain_interval": [round(float(low), 4), round(float(high), 4)],
        "weights_on_all": [round(float(w), 3) for w in best_weights(measure, metrics, truth, grid)],
        "weights_mean": [round(float(w), 3) for w in np.mean(fitted, 0)],
        "weights_deviation": [round(float(w), 3) for w in np.std(fitted, 0)],
    }
