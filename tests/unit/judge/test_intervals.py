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


def test_the_interval_of_a_whole_metric_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(150):
        truth = rng.normal(size=120)
        noisy = truth + rng.normal(scale=1.0, size=120)  # correlation 1/sqrt(2) in the population

        def correlations(rows: np.ndarray, truth: np.ndarray = truth, noisy: np.ndarray = noisy) -> tuple[float, float]:
            return 1.0, float(np.corrcoef(truth[rows], noisy[rows])[0, 1])

        drop = intervals.whole(correlations, 120).drop
        covered.append(drop.low <= 1 - 0.5**0.5 <= drop.high)
    assert 0.90 <= np.mean(covered) <= 0.99


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
    paired = intervals.whole(lambda rows: (float(np.median(rows)), float(np.median(rows))), 30)
    assert paired.drop.low < paired.drop.value == 0 < paired.drop.high


def test_needed_samples_really_decide() -> None:
    """A drop of zero with 2 % flips against a limit of 1 point: at n + needed, about 80 % of runs pass."""
    n, flips, limit = 400, 0.02, 0.01
    more = intervals.more_samples(
        intervals.binary(np.repeat([1.0, 0.0], [396, 4]), np.repeat([1.0, 0.0, 1.0], [392, 4, 4])), limit, n
    )
    rng = np.random.default_rng(4)
    counts = rng.multinomial(n + more, [flips / 2, flips / 2, 1 - flips], size=200)
    passed = [intervals.tango(int(w), int(b), n + more).high <= limit for w, b, _ in counts]
    assert 0.7 <= np.mean(passed) <= 0.9


def test_needed_is_finite_on_the_limit() -> None:
    exactly = intervals.binary(np.ones(200), np.repeat([1.0, 0.0], [198, 2]))
    assert exactly.drop.value == pytest.approx(0.01)
    assert 1 <= intervals.more_samples(exactly, 0.01, 200) < 20_000
