"""Intervals that cover, percentiles that know when to be silent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from hwprofiles.statistics import looks, median_interval, ratio_interval, tail_percentile, variation


def test_ratio_interval_covers_the_truth_under_drift() -> None:
    """20 pairs with 1 % noise, on a machine that slows down by 30 % meanwhile: nominal 95 %."""
    random = np.random.default_rng(1)
    true, covered, runs = 0.8, 0, 200
    for seed in range(runs):
        drift = np.linspace(1, 1.3, 20)
        candidate = true * drift * np.exp(random.normal(0, 0.01, 20))
        baseline = drift * np.exp(random.normal(0, 0.01, 20))
        _, low, high = ratio_interval(np.log(candidate / baseline), seed=seed)
        covered += low <= true <= high
    assert covered >= 0.9 * runs


def test_ratio_survives_bursts_of_a_neighbour() -> None:
    random = np.random.default_rng(2)
    logs = np.log(0.8) + random.normal(0, 0.01, 30)
    logs[[3, 11, 12, 20]] += [1.5, -2.0, 0.7, 3.0]
    value, low, high = ratio_interval(logs, seed=0)
    assert value == pytest.approx(0.8, rel=0.01) and low <= 0.8 <= high


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(3).normal(1, 0.1, 20)
    assert median_interval(values, seed=5) == median_interval(values, seed=5)
    assert median_interval(values, seed=5) != median_interval(values, seed=6)


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0, 2.0]])
def test_interval_of_hardly_anything(values: list[float]) -> None:
    assert median_interval(values, seed=0) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("percentile", "floor"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662)])
def test_percentile_is_null_below_its_floor(percentile: float, floor: int) -> None:
    assert tail_percentile(list(range(floor - 1)), percentile) is None
    assert tail_percentile(list(range(floor)), percentile) == floor - 1  # the largest of them


def test_percentile_is_an_upper_estimate_that_converges() -> None:
    samples = np.random.default_rng(4).permutation(100_000) / 100_000
    found = tail_percentile(samples.tolist(), 0.9)
    assert found is not None and 0.9 <= found <= 0.904
    over = int((samples >= found).sum())
    assert binom.cdf(over, 100_000, 0.1) <= 0.01 < binom.cdf(over + 1, 100_000, 0.1)


def test_looks() -> None:
    assert looks(10, 50) == [10, 13, 17, 22, 29, 38, 50]
    assert looks(20, 50) == [20, 29, 38, 50]
    assert looks(50, 100) == [50, 65, 85, 100]
    assert looks(5, 3) == [5]


def test_variation() -> None:
    assert variation([1.0]) == 0 and variation([0.0, 0.0]) == 0
    assert variation([1.0, 3.0]) == pytest.approx(math.sqrt(2) / 2)
