"""The largest of many drops: its optimism is taken off, a real loss stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autotune.judge import optimism

RUNS = 80
Truths = Callable[[np.random.Generator], np.ndarray]


@pytest.mark.parametrize(
    ("slices", "n", "truths"),
    [
        (30, 500, lambda rng: np.zeros(30)),
        (20, 1000, lambda rng: np.array([0.03] + [0.0] * 19)),
        (20, 1000, lambda rng: rng.normal(0.005, 0.005, 20)),
        (30, 500, lambda rng: rng.normal(0.01, 0.01, 30)),
    ],
)
def test_the_worst_slice_is_within_half_a_point_on_average(slices: int, n: int, truths: Truths) -> None:
    rng, errors, raw = np.random.default_rng(0), [], []
    for run in range(RUNS):
        true = truths(rng)
        worse, better = 0.015 + np.maximum(true, 0), 0.015 + np.maximum(-true, 0)
        lost = rng.binomial(n, worse)
        gained = rng.binomial(n - lost, better / (1 - worse))
        measured, variances = (lost - gained) / n, (lost + gained + 1) / n**2
        beliefs = optimism.drops(measured, variances, np.ones(slices), seed=run)
        errors.append(optimism.largest(measured, beliefs) - true.max())
        raw.append(measured.max() - true.max())
    assert abs(np.mean(errors)) <= 0.0055
    assert np.mean(errors) <= np.mean(raw)


def test_a_tiny_slice_is_shrunk_more_than_a_large_one() -> None:
    measured = np.array([0.05, 0.05, *[0.0] * 10])
    variances = np.array([0.03 / 40, 0.03 / 4000, *[0.03 / 1000] * 10])
    shrunk = optimism.drops(measured, variances, np.ones(12)).shrunk
    assert shrunk[0] < 0.025
    assert shrunk[1] > 0.045


def test_two_slices_that_do_not_decide_change_nothing() -> None:
    measured = np.array([0.01, 0.04, 0.2])
    beliefs = optimism.drops(measured, np.full(3, 1e-4), np.array([0.0, 1.0, 0.0]))
    assert beliefs.shrunk == pytest.approx(measured)


def test_the_same_data_give_the_same_answer() -> None:
    measured, variances = np.linspace(0, 0.03, 8), np.full(8, 3e-5)
    first, second = (optimism.drops(measured, variances, np.ones(8)) for _ in range(2))
    assert np.array_equal(first.true, second.true)
    assert optimism.largest(measured, first) == optimism.largest(measured, second)
