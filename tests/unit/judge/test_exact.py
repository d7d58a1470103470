"""Exact tests of few samples: never wrong more often than they say, and able to see a collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotune.judge import exact, spending


@pytest.mark.parametrize("limit", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("n", [8, 20, 45])
def test_the_error_is_kept_whatever_the_flips(n: int, limit: float) -> None:
    """Summed over all outcomes, in plain Python, for true drops on the limit and below."""
    error = 0.01
    refuted = [(w, b) for w in range(n + 1) for b in range(n + 1 - w) if exact.lost(w, b, n, limit, error)]
    assert (n, 0) in refuted
    for rate in (0.0, 0.013, 0.1, 0.3, (1 - limit) / 2):
        for drop in (limit, limit / 2):
            chances = rate + drop, rate, max(0.0, 1 - 2 * rate - drop)
            total = sum(
                math.comb(n, w) * math.comb(n - w, b) * chances[0] ** w * chances[1] ** b * chances[2] ** (n - w - b)
                for w, b in refuted
            )
            assert total <= error * 1.001


def test_what_few_samples_can_show() -> None:
    assert exact.lost(20, 0, 50, 0.01, 2e-4)
    assert not exact.lost(3, 0, 50, 0.01, 2e-4)
    assert not exact.lost(20, 19, 50, 0.01, 2e-4)
    assert not exact.lost(20, 0, 50, 0.5, 2e-4)
    assert exact.lost(20, 0, 50, -0.1, 2e-4) == exact.lost(20, 0, 50, 0.0, 2e-4)


def test_graded_scores_few_of_them() -> None:
    assert exact.lost_mean(np.full(60, 0.5), 0.05, 0.001)
    assert not exact.lost_mean(np.full(5, 0.5), 0.05, 0.001)


@pytest.mark.parametrize("planned", [0, 1, 3, 8])
def test_the_parts_of_the_error_sum_to_one(planned: int) -> None:
    parts = [spending.share(place, planned) for place in range(20_000)]
    assert sum(parts) == pytest.approx(1.0, abs=1e-3) and sum(parts) <= 1
    assert parts == sorted(parts, reverse=True)
    assert parts[:planned] == [1 / (planned + 1)] * planned
