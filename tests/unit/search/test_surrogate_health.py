"""The health check: when a model is to be distrusted, and when the measurements differ by noise alone."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.search.surrogate.health import check_health
from autotune.search.surrogate.space import Floats


def batches(noise: float, slope: float) -> tuple[list[tuple[Floats, Floats]], Floats]:
    """Two batches that are predicted with an error of `noise` and hardly differ, or by `slope`; all measured."""
    rng = np.random.default_rng(5)
    truth = 0.67 + slope * np.linspace(0, 1, 10)[:, None]
    predicted, measured = (truth + rng.normal(0, noise, (10, 1)) for _ in range(2))
    seen = np.concatenate([np.array([[1.0], [1.1], [0.9], [0.68], [0.66]]), measured])
    return [(predicted[:5], measured[:5]), (predicted[5:], measured[5:])], seen


def test_what_only_noise_ranks_is_no_reason_to_explore() -> None:
    pairs, seen = batches(noise=0.005, slope=0.0)
    health = check_health(pairs, np.ones(1), seen)
    assert health is not None and health.rank_correlation[0] < 0.5
    assert health.good
    alone = check_health(pairs, np.ones(1), np.concatenate([m for _, m in pairs]))
    assert alone is not None and not alone.good  # nothing else measured: it may be the model


def test_large_errors_are_bad_whatever_else_was_measured() -> None:
    pairs, seen = batches(noise=0.005, slope=0.0)
    reversed_order = [(m[::-1] + 0.2, m) for _, m in pairs]
    health = check_health(reversed_order, np.ones(1), seen)
    assert health is not None and not health.good


def test_a_good_order_is_good() -> None:
    pairs, seen = batches(noise=0.005, slope=0.2)
    health = check_health(pairs, np.ones(1), seen)
    assert health is not None and health.rank_correlation[0] > 0.9 and health.good


def test_a_maximised_objective() -> None:
    pairs, seen = batches(noise=0.005, slope=0.2)
    health = check_health([(-p, -m) for p, m in pairs], -np.ones(1), -seen)
    assert health is not None and health.rank_correlation[0] > 0.9 and health.good


def test_what_was_not_measured_is_left_out() -> None:
    pairs, seen = batches(noise=0.005, slope=0.2)
    pairs[0][1][0] = np.nan
    seen[0] = np.nan
    health = check_health(pairs, np.ones(1), seen)
    assert health is not None and health.rank_correlation[0] > 0.9 and health.good


def test_the_error_of_an_objective_that_is_sometimes_zero() -> None:
    """Related to one measurement each, an error of 0.001 beside a drop of 0 would be a billion."""
    measured = np.array([[0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.02], [0.04], [0.0], [0.04]])
    health = check_health([(measured + 0.001, measured)], np.ones(1), measured)
    assert health is not None
    assert health.relative_error[0] == pytest.approx(0.001 / 0.014)  # the mean distance from the mean, 0.01
    nothing = np.zeros((10, 1))
    seen = np.array([[0.0], [0.2]])
    of_all = check_health([(nothing + 0.001, nothing)], np.ones(1), seen)
    assert of_all is not None and of_all.relative_error[0] == pytest.approx(0.01)
    unknown = check_health([(nothing + 0.001, nothing)], np.ones(1), nothing)
    assert unknown is not None and np.isnan(unknown.relative_error[0])


def test_the_error_is_a_share_of_the_median_magnitude() -> None:
    measured = np.array([[-4.0], [-5.0], [-6.0]])
    health = check_health([(measured + 0.1, measured)], -np.ones(1), measured)
    assert health is not None and health.relative_error[0] == pytest.approx(0.02)
