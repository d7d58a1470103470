"""Power: what the data could have shown, against published and simulated numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from autotune.judge import intervals, power

SIZES = (100, 200, 500, 1000, 2000, 5000)
TABLE = {  # points, by rate of flips; None: not even a drop of all flips is found
    0.01: (None, None, None, 0.76, 0.54, 0.35),
    0.02: (None, None, 1.51, 1.08, 0.77, 0.50),
    0.04: (None, 3.35, 2.16, 1.55, 1.11, 0.70),
    0.08: (6.68, 4.78, 3.09, 2.22, 1.57, 0.99),
}


@pytest.mark.parametrize("flips", TABLE)
def test_the_smallest_drop_that_is_found(flips: float) -> None:
    for n, expected in zip(SIZES, TABLE[flips], strict=True):
        found = power.detectable(n, flips)
        assert found is not None
        if expected is None:
            assert found > flips  # it takes more flips than that
        else:
            assert 100 * found == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize(("n", "flips"), [(300, 0.05), (1000, 0.02), (500, 0.005)])
def test_it_is_found_in_80_percent_of_simulations(n: int, flips: float) -> None:
    drop = power.detectable(n, flips)
    assert drop is not None
    rate = max(flips, drop)
    rng = np.random.default_rng(1)
    counts = rng.multinomial(n, [(rate + drop) / 2, (rate - drop) / 2, 1 - rate], size=4000)
    worse, better = counts[:, 0], counts[:, 1]
    mid = stats.binom.sf(worse, worse + better, 0.5) + stats.binom.pmf(worse, worse + better, 0.5) / 2
    assert np.mean(mid <= 0.05) == pytest.approx(0.8, abs=0.025)


def test_too_few_samples_show_nothing() -> None:
    assert power.detectable(3, 0.5) is None
    assert power.detectable(30, 0.0) is not None


def test_large_samples_join_the_exact_ones() -> None:
    assert power.detectable(100_001, 0.02) == pytest.approx(power.detectable(100_000, 0.02), rel=0.02)
    assert power.detectable(100_001, 1e-6) == pytest.approx(power.detectable(100_000, 1e-6), rel=0.02)
    assert power.detectable_mean(1000, 0.02) == pytest.approx(power.detectable(1000, 0.02), rel=0.06)


@pytest.mark.parametrize(("limit", "flips"), [(0.01, 0.02), (0.02, 0.03), (0.005, 0.005)])
def test_enough_samples_pass_in_80_percent(limit: float, flips: float) -> None:
    n = power.enough_for(limit, flips)
    rng = np.random.default_rng(2)

    def passing(size: int) -> float:
        counts = rng.multinomial(size, [flips / 2, flips / 2, 1 - flips], size=1500)
        return float(np.mean([intervals.tango(int(w), int(b), size).high <= limit for w, b, _ in counts]))

    assert passing(n) >= 0.77
    assert passing(int(0.8 * n)) < 0.8


def test_enough_agrees_with_the_rules_of_thumb() -> None:
    assert power.enough_for(0.01) >= 1000
    assert power.enough_for(0.02) >= 500
    assert power.enough_for(0.2) == 200
    with pytest.raises(ValueError, match="must be positive"):
        power.enough_for(0.0)


def test_needed_samples_really_decide() -> None:
    """A drop of zero with 2 % flips against a limit of 1 point: at n + needed, about 80 % of runs pass."""
    n, flips, limit = 400, 0.02, 0.01
    more = power.more_samples(
        intervals.binary(np.repeat([1.0, 0.0], [396, 4]), np.repeat([1.0, 0.0, 1.0], [392, 4, 4])), limit, n
    )
    rng = np.random.default_rng(4)
    counts = rng.multinomial(n + more, [flips / 2, flips / 2, 1 - flips], size=200)
    passed = [intervals.tango(int(w), int(b), n + more).high <= limit for w, b, _ in counts]
    assert 0.7 <= np.mean(passed) <= 0.9


def test_needed_is_finite_on_the_limit() -> None:
    exactly = intervals.binary(np.ones(200), np.repeat([1.0, 0.0], [198, 2]))
    assert exactly.drop.value == pytest.approx(0.01)
    assert 1 <= power.more_samples(exactly, 0.01, 200) < 20_000
    assert power.more_samples(exactly, 0.0, 200) >= 1
