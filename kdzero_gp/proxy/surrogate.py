"""A surrogate of the proxy: how well a distiller will do, predicted from its gradient at the warm student."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

# Nothing is predicted from fewer distillers than this.
LEAST_KNOWN = 20
# … but which of two is fitter is known well enough from so few (experiments/proposers).
LEAST_JUDGED = 5
# A prediction listens to so many of the nearest ones, which bounds its cost.
NEIGHBOURS = 100
# Length scales of the kernel: of the distance between directions (0 to 2), and of the logarithm of the lengths.
DIRECTION_SCALE, LENGTH_SCALE = 1.0, 2.0
# The variance that a proxy's seed and the folding of the gradient add, as a share of all variance.
NOISE = 0.1
# A score is the prediction less so many deviations. Far more than usual: what can be predicted needs no training, and a
# search that trains what looks best only tries what is like its best (experiments/search_quality: 1 to 3 found
# less, and so did 10).
OPTIMISM = 5.0
# The same share where measured values are smoothed, and how many of the fittest are: of the luck of a single seed in a
# proxy, neighbours have no part (experiments/embedded).
SMOOTHING = 1.0
MOST_SMOOTHED = 200


class Prediction(NamedTuple):
    """The ``fitness`` that is expected, and a lower confidence bound on its normal ``score`` among the known ones."""

    fitness: float
    score: float


def predict(fingerprint: Array, known: Array, fitness: Array, least: int = LEAST_KNOWN) -> Prediction | None:
    """How well a distiller will do, from how well the ``known`` ones did; lower is better.

    ``known``: n×width fingerprints; ``fitness``: n numbers, lower is better, NaN for those that were rejected, which
    say nothing. A Gaussian process with the kernel exp(−d), d² = ‖u − v‖²/s² + (log‖f‖ − log‖g‖)²/t² of
    fingerprints f, g with the directions u, v, predicts the normal quantile of the fitness's rank. None where fewer
    than ``least`` were trained. Such confidence bounds are usual in surrogate-assisted evolution (Jin 2011,
    doi:10.1016/j.swevo.2011.05.001); gradients as what is predicted from are ours (experiments/search_quality).
    """
    trained = ~np.isnan(fitness)
    known, fitness = known[trained], fitness[trained]
    if len(known) < least:
        return None
    from scipy.special import ndtr

    mean, deviation = _process(_embedded(known), _quantiles(fitness), _embedded(fingerprint[None]), NOISE)
    return Prediction(float(np.quantile(fitness, ndtr(mean))), mean - OPTIMISM * deviation)


def smoothed(fingerprints: Array, fitness: Array) -> list[int]:
    """All places, best first, the fittest of them by what they and distillers with gradients like theirs reached.

    ``fingerprints``: n×width, ``fitness``: n measured numbers. One proxy training has luck; the posterior mean of the
    process that predicts, with as much noise as signal, has less of it. The ``MOST_SMOOTHED`` fittest are ordered by
    that, the others by their fitness.
    """
    order = np.argsort(fitness, kind="stable").tolist()
    if len(fitness) < LEAST_KNOWN:
        return order
    fittest, rest = order[:MOST_SMOOTHED], order[MOST_SMOOTHED:]
    places, quantiles = _embedded(fingerprints), _quantiles(fitness)
    means = {one: _process(places, quantiles, places[one : one + 1], SMOOTHING)[0] for one in fittest}
    return [*sorted(fittest, key=lambda one: means[one]), *rest]


def _quantiles(fitness: Array) -> Array:
    """The normal quantiles of the ranks."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri((rankdata(fitness) - 0.5) / len(fitness))  # type: ignore[no-any-return]


def _process(places: Array, values: Array, place: Array, noise: float) -> tuple[float, float]:
    """Mean kᵀ(K + noise·1)⁻¹y and deviation √(1 − kᵀ(K + noise·1)⁻¹k) at a place, from the values y at the nearest
    places, with the kernel exp(−distance) (Rasmussen and Williams 2006, algorithm 2.1). scikit-learn's
    ``GaussianProcessRegressor`` gives the same bits and takes three times as long."""
    from scipy.linalg import cho_solve, cholesky, solve_triangular
    from scipy.spatial.distance import cdist, pdist, squareform

    near = np.argsort(np.linalg.norm(places - place, axis=1), kind="stable")[:NEIGHBOURS]
    known = places[near]
    kernel = squareform(np.exp(-pdist(known)))
    np.fill_diagonal(kernel, 1 + noise)
    with _libraries().limit(limits=1, user_api="blas"):  # with more threads the last digits depend on their number
        lower = cholesky(kernel, lower=True, check_finite=False)
        across = np.exp(-cdist(place, known))
        (mean,) = across @ cho_solve((lower, True), values[near], check_finite=False)
        whitened = solve_triangular(lower, across.T, lower=True, check_finite=False)
    return float(mean), math.sqrt(max(0.0, 1 - float(np.einsum("ij,ji->i", whitened.T, whitened)[0])))


@cache
def _libraries() -> Any:
    """The libraries of linear algebra that this process has loaded, found once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _embedded(fingerprints: Array) -> Array:
    """Points whose distance is the kernel's: directions, and logarithms of the lengths, in units of their scales."""
    lengths = np.maximum(np.linalg.norm(fingerprints, axis=1, keepdims=True), 1e-30)
    return np.concatenate([fingerprints / lengths / DIRECTION_SCALE, np.log(lengths) / LENGTH_SCALE], axis=1)
