"""Intervals that cover, percentiles that know when to be silent."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp

from hwprofiles.statistics import (
    exponential,
    half_width,
    interval_over_openings,
    looks,
    median_interval,
    pairs_per_opening,
    ratio_interval,
    tail_percentile,
    variation,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
OPENINGS = np.repeat(np.arange(7), 3)


def coverage(shift: Draw, noise: Draw, runs: int = 400) -> float:
    """Share of runs of 7 openings of 3 pairs whose interval holds the truth, which is 0."""
    covered = 0
    for seed in range(runs):
        random = np.random.default_rng(seed)
        values = shift(random, 7)[OPENINGS] + noise(random, 21)
        _, low, high = interval_over_openings(values.tolist(), OPENINGS.tolist())
        covered += low <= 0 <= high
    return covered / runs


def normal(size: float) -> Draw:
    return lambda random, count: random.normal(0, size, count)


def bursts(random: np.random.Generator, count: int) -> np.ndarray:
    """1 % noise; one pair in ten is off by about 15 %."""
    hit = random.random(count) < 0.1
    return random.normal(0, 0.01, count) + hit * random.choice([-1, 1], count) * random.exponential(0.15, count)


@pytest.mark.parametrize(
    ("shift", "noise"),
    [
        (normal(0.0), normal(0.01)),
        (normal(0.01), normal(0.005)),
        (lambda random, count: random.choice([-0.015, 0.015], count), normal(0.005)),
        (normal(0.005), bursts),
    ],
    ids=["pairs differ", "openings differ", "two kinds of layout", "bursts"],
)
def test_interval_covers_the_truth_although_openings_differ(shift: Draw, noise: Draw) -> None:
    assert 0.9 <= coverage(shift, noise) <= 0.99


def test_pairs_of_one_opening_are_not_independent() -> None:
    """What the method is there for: pooling the pairs finds differences where there are none."""
    random, wrong = np.random.default_rng(1), 0
    for seed in range(100):
        values = random.normal(0, 0.01, 7)[OPENINGS] + random.normal(0, 0.002, 21)
        _, low, high = median_interval(values.tolist(), seed=seed)
        wrong += not low <= 0 <= high
    assert wrong >= 15


def test_openings_are_averaged_and_bursts_inside_are_outvoted() -> None:
    values, openings = [0.1, 0.1, 9.0, 0.3, 0.3, -7.0], [0, 0, 0, 5, 5, 5]
    value, low, high = interval_over_openings(values, openings)
    assert value == pytest.approx(0.2) and (low + high) / 2 == pytest.approx(0.2)
    assert (high - low) / 2 == pytest.approx(12.7062 * 0.1)  # t with one degree of freedom


def test_interval_over_openings_is_the_t_interval_of_their_medians() -> None:
    means = np.random.default_rng(0).normal(1, 0.1, 8)
    interval = interval_over_openings(means.tolist(), range(8))
    expected = ttest_1samp(means, 0).confidence_interval(0.95)
    assert interval == pytest.approx((means.mean(), expected.low, expected.high))
    assert half_width(interval) == pytest.approx((expected.high - expected.low) / 2)


def test_intervals_of_hardly_any_openings() -> None:
    assert interval_over_openings([2.0], [0]) == (2.0, 2.0, 2.0)
    value, low, high = interval_over_openings([1.0, 2.0, 4.0], [3, 3, 3])
    assert value == 2.0 and low < 1.5 and high > 3
    with pytest.raises(ValueError, match="at least one"):
        interval_over_openings([], [])
    assert exponential((0.0, -1.0, 1.0)) == pytest.approx((1, 1 / math.e, math.e))


def test_pairs_per_opening_leave_at_least_five_openings() -> None:
    assert [pairs_per_opening(3, n) for n in (3, 5, 10, 14, 20, 50)] == [1, 1, 2, 3, 3, 3]
    assert pairs_per_opening(5, 50) == 5 and pairs_per_opening(100, 50) == 10


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
