"""The surrogate: fitness predicted from gradients, and what it turns away."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import norm, spearmanr

from kdzero_gp.proxy.surrogate import (
    DIRECTION_SCALE,
    LEAST_KNOWN,
    LENGTH_SCALE,
    MOST_SMOOTHED,
    NOISE,
    OPTIMISM,
    predict,
    smoothed,
)

WIDTH = 64


def distillers(count, seed=0, width=WIDTH):
    """Fingerprints, and a fitness that depends on their direction and length."""
    generator = np.random.default_rng(seed)
    known = generator.standard_normal((count, 4)) @ generator.standard_normal((4, width))
    known *= 10.0 ** generator.uniform(-1, 1, (count, 1))
    lengths = np.linalg.norm(known, axis=1)
    return known, 1.0 - 0.5 * known[:, 0] / lengths + 0.1 * np.log(lengths)


def test_it_ranks_what_it_has_not_seen():
    known, fitness = distillers(150)
    new, truth = known[100:], fitness[100:]
    found = [predict(one, known[:100], fitness[:100]) for one in new]
    assert spearmanr([one.fitness for one in found], truth)[0] > 0.8
    assert spearmanr([one.score for one in found], truth)[0] > 0.7


def test_it_is_the_gaussian_process_of_its_docstring():
    known, fitness = distillers(40, seed=1)
    new, known, fitness = known[0], known[1:], fitness[1:]

    def kernel(one, other):
        apart = np.linalg.norm(one / np.linalg.norm(one) - other / np.linalg.norm(other)) / DIRECTION_SCALE
        longer = math.log(np.linalg.norm(one) / np.linalg.norm(other)) / LENGTH_SCALE
        return math.exp(-math.hypot(apart, longer))

    quantiles = [norm.ppf((np.sum(fitness < value) + 0.5) / len(fitness)) for value in fitness]
    covariance = np.array([[kernel(a, b) for b in known] for a in known]) + NOISE * np.eye(len(known))
    towards = np.array([kernel(new, b) for b in known])
    factor = cho_factor(covariance)
    mean = towards @ cho_solve(factor, quantiles)
    deviation = math.sqrt(1.0 - towards @ cho_solve(factor, towards))
    found = predict(new, known, fitness)
    assert found.score == pytest.approx(mean - OPTIMISM * deviation, abs=1e-9)
    assert found.fitness == pytest.approx(np.quantile(fitness, norm.cdf(mean)), abs=1e-9)


def test_only_the_order_of_the_fitness_counts_and_the_rejected_say_nothing():
    known, fitness = distillers(60, seed=2)
    new, known, fitness = known[0], known[1:], fitness[1:]
    plain = predict(new, known, fitness)
    assert predict(new, known, np.exp(3.0 * fitness)).score == plain.score
    more = np.concatenate([known, known[:5] * 1.1])
    assert predict(new, more, np.concatenate([fitness, np.full(5, np.nan)])) == plain


def test_few_say_nothing_and_what_is_unlike_all_is_worth_a_try():
    known, fitness = distillers(LEAST_KNOWN, seed=3)
    assert predict(known[0], known[1:], fitness[1:]) is None
    orthogonal = np.zeros(WIDTH)
    far = np.zeros((LEAST_KNOWN, WIDTH))
    far[:, 0], orthogonal[1] = 1.0, 1e-8
    assert predict(orthogonal, far, fitness).score < predict(far[0], far, fitness).score


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(LEAST_KNOWN, 150), st.sampled_from([1e-12, 1.0, 1e12]))
def test_a_score_is_finite_whatever_is_known(seed, count, size):
    generator = np.random.default_rng(seed)
    known = size * generator.standard_normal((count, 3)).round()  # many equal ones, and some that are 0
    found = predict(known[0], known, generator.integers(0, 3, count).astype(float))
    assert math.isfinite(found.score) and 0 <= found.fitness <= 2


def test_smoothing_takes_the_luck_out_of_one_training():
    """The order of the fittest by their neighbours, too, is nearer to the truth than that by one noisy number each."""
    gains = []
    for seed in range(5):
        known, truth = distillers(300, seed)
        noisy = truth + np.random.default_rng(seed).normal(0, truth.std(), 300)
        order = smoothed(known, noisy)
        by_fitness = np.argsort(noisy, kind="stable").tolist()
        assert sorted(order[:MOST_SMOOTHED]) == sorted(by_fitness[:MOST_SMOOTHED])
        assert order[MOST_SMOOTHED:] == by_fitness[MOST_SMOOTHED:]
        one, other = ([truth[place] for place in places[:20]] for places in (np.argsort(noisy), order))
        gains.append(np.mean(one) - np.mean(other))
    assert np.mean(gains) > 0.2 * truth.std() and min(gains) > 0, gains
    assert smoothed(known[:10], noisy[:10]) == np.argsort(noisy[:10]).tolist(), "too few to listen to neighbours"
