"""Intervals keep what they promise: nominal 95 % on simulated data with known truth, and no surprise at the
edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from autotune.judge import intervals

RUNS = 400


@pytest.mark.parametrize(("worse", "better", "n"), [(1, 0, 44), (9, 4, 200), (2, 7, 60), (30, 10, 100)])
def test_the_ends_of_tango_are_where_the_score_test_turns(worse: int, better: int, n: int) -> None:
    """Independent of the closed form: the rates under the tested difference by maximising the likelihood."""

    def score(d: float) -> float:
        def surprise(rate: float) -> float:
            rates = np.array([rate + d, rate, 1 - 2 * rate - d])
            return -float(np.dot([worse, better, n - worse - better], np.log(rates)))

        start = max(0.0, -d)
        best = optimize.minimize_scalar(surprise, bounds=(start + 1e-9, (1 - d) / 2 - 1e-9), options={"xatol": 1e-10})
        return (worse - better - n * d) / np.sqrt(n * (2 * best.x + d - d * d))

    interval = intervals.tango(worse, better, n)
    assert score(interval.low) == pytest.approx(1.96, abs=2e-3)
    assert score(interval.high) == pytest.approx(-1.96, abs=2e-3)


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_no_flip_still_allows_a_small_difference(n: int) -> None:
    z = stats.norm.ppf(0.975)
    interval = intervals.tango(0, 0, n)
    assert interval.high == pytest.approx(z**2 / (n + z**2), rel=1e-3)
    assert interval.low == pytest.approx(-interval.high)


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (3, 1), (1, 3), (10, 0), (0, 10), (5, 5)])
def test_tango_is_symmetric_and_stays_in_range(worse: int, better: int) -> None:
    interval, mirrored = intervals.tango(worse, better, 10), intervals.tango(better, worse, 10)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-6)


@pytest.mark.parametrize(
    ("n", "worse", "better"), [(240, 0.015, 0.015), (240, 0.03, 0.01), (1000, 0.02, 0.0), (600, 0.2, 0.05)]
)
def test_the_interval_of_a_drop_covers_the_truth(n: int, worse: float, better: float) -> None:
    rng = np.random.default_rng(1)
    counts = rng.multinomial(n, [worse, better, 1 - worse - better], size=RUNS)
    found = [intervals.tango(int(w), int(b), n) for w, b, _ in counts]
    assert 0.92 <= np.mean([i.low <= worse - better <= i.high for i in found]) <= 0.98


def test_the_interval_of_graded_scores_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(200):
        base = rng.uniform(0.5, 1.0, 240)
        loss = (rng.random(240) < 0.2) * rng.uniform(-0.2, 0.5, 240)  # most samples do not change
        drop = intervals.graded(base, base - loss).drop
        covered.append(drop.low <= 0.2 * 0.15 <= drop.high)
    assert 0.92 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize(("rate", "worse"), [(0.03, 0.8), (0.1, 0.5), (0.1, 1.0)])
def test_few_changed_graded_scores_are_covered_too(rate: float, worse: float) -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(RUNS):
        change = rng.beta(1, 3, 500) * (rng.random(500) < rate) * np.where(rng.random(500) < worse, 1, -1)
        drop = intervals.graded(0.5 + change / 2, 0.5 - change / 2).drop
        covered.append(drop.low <= rate * (2 * worse - 1) * 0.25 <= drop.high)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_the_mean_of_skewed_values_is_covered() -> None:
    rng = np.random.default_rng(4)
    held = []
    for _ in range(RUNS):
        found = intervals.mean(rng.lognormal(0, 1, 500))
        held.append(found.low <= np.exp(0.5) <= found.high)
    assert 0.91 <= np.mean(held) <= 0.98


def test_a_mean_without_skewness_has_the_t_interval() -> None:
    values = np.linspace(-1, 1, 41)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = intervals.mean(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_lower_ends_for_smaller_errors_lie_further_out() -> None:
    rng = np.random.default_rng(5)
    before = rng.uniform(0.5, 1, 300)
    right = (before > 0.6).astype(float)
    for paired in (
        intervals.graded(before, before - 0.1 * (rng.random(300) < 0.2)),
        intervals.graded(before, before),
        intervals.binary(right, np.roll(right, 1)),
        intervals.whole(_correlations(before, before + rng.normal(size=300)), np.arange(300), 300),
    ):
        assert paired.low_at(intervals.ONE_SIDED) == pytest.approx(paired.drop.low, abs=1e-9)
        assert paired.low_at(0.001) < paired.drop.low


def test_the_interval_of_a_whole_metric_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(30):
        truth = rng.normal(size=120)
        noisy = truth + rng.normal(scale=1.0, size=120)  # correlation 1/sqrt(2) in the population
        drop = intervals.whole(_correlations(truth, noisy), np.arange(120), 120).drop
        covered.append(drop.low <= 1 - 0.5**0.5 <= drop.high)
    assert np.mean(covered) >= 0.85  # 30 runs: benchmarks/verdicts.py makes more


def _correlations(truth: np.ndarray, noisy: np.ndarray) -> intervals.Whole:
    """An original that is right, a candidate that is noisy."""

    def both(rows: np.ndarray, swapped: np.ndarray) -> tuple[float, float]:
        one, other = np.where(swapped, noisy[rows], truth[rows]), np.where(swapped, truth[rows], noisy[rows])
        return tuple(float(np.corrcoef(truth[rows], each)[0, 1]) for each in (one, other))  # type: ignore[return-value]

    return both


def test_binary_counts_and_mcnemar() -> None:
    original = np.array([1.0] * 90 + [0.0] * 10)
    candidate = original.copy()
    candidate[:8] = 0.0
    candidate[95:97] = 1.0
    paired = intervals.binary(original, candidate)
    assert paired.original.value == 0.9
    assert paired.candidate.value == 0.84
    assert paired.drop.value == pytest.approx(0.06)
    assert paired.p_value == pytest.approx(stats.binomtest(8, 10).pvalue)


def test_an_unchanged_graded_score_is_a_tie_with_a_width() -> None:
    scores = np.linspace(0, 1, 50)
    paired = intervals.graded(scores, scores)
    assert paired.drop.value == 0
    assert paired.drop.low < 0 < paired.drop.high
    assert paired.p_value == 1.0


def test_a_constant_shift_is_certain() -> None:
    scores = np.linspace(0, 1, 50)
    paired = intervals.graded(scores, scores - 0.25)
    assert paired.p_value is not None
    assert paired.p_value < 1e-6


def test_an_unchanged_whole_metric_is_a_tie_with_a_width() -> None:
    paired = intervals.whole(lambda rows, _: (float(np.median(rows)), float(np.median(rows))), np.arange(0), 30)
    assert paired.drop.low < paired.drop.value == 0 < paired.drop.high


def test_a_whole_metric_without_any_value_is_refused() -> None:
    with pytest.raises(ValueError, match="no value for these 30 samples"):
        intervals.whole(lambda rows, _: None, np.arange(3), 30)
    with pytest.raises(ValueError, match="no value for 100 resamples"):
        intervals.whole(lambda rows, _: (1.0, 1.0) if len(set(rows.tolist())) == 30 else None, np.arange(3), 30)


def test_wilson_is_that_of_scipy() -> None:
    found = intervals.proportion(45, 50)
    expected = stats.binomtest(45, 50).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((0.9, expected.low, expected.high))
