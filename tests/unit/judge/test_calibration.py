"""Calibration: the error over bins of equal mass, its change, and being sure and wrong."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.judge import calibration


def made(rng: np.random.Generator, n: int, sharper: float) -> tuple[np.ndarray, np.ndarray]:
    logit = rng.normal(2, 1.5, n)
    return 1 / (1 + np.exp(-sharper * logit)), rng.random(n) < 1 / (1 + np.exp(-logit))


def test_bins_have_equal_mass() -> None:
    confidence = np.linspace(0.4, 1.0, 1500)
    right = np.arange(1500) % 2 == 0
    expected = np.mean([abs(c.mean() - 0.5) for c in confidence.reshape(15, 100)])
    assert calibration.calibration_error(confidence, right) == pytest.approx(expected)
    shuffled = np.random.default_rng(0).permutation(1500)
    assert calibration.calibration_error(confidence[shuffled], right[shuffled]) == pytest.approx(expected)


def test_a_calibrated_model_reads_little_and_a_sure_one_much() -> None:
    rng = np.random.default_rng(1)
    assert calibration.calibration_error(*made(rng, 100_000, 1.0)) < 0.005
    assert calibration.calibration_error(*made(rng, 100_000, 2.0)) > 0.05


def test_fewer_samples_than_bins() -> None:
    assert calibration.calibration_error(np.array([0.9, 0.6]), np.array([True, False])) == pytest.approx(0.35)


def test_the_change_and_its_interval() -> None:
    rng = np.random.default_rng(2)
    confidence, right = made(rng, 3000, 1.0)
    logit = np.log(confidence / (1 - confidence))
    sharper = 1 / (1 + np.exp(-1.6 * logit))
    change = calibration.calibration_change(confidence, right, sharper, right)
    assert 0 < change.low < change.value < change.high
    same = calibration.calibration_change(confidence, right, confidence, right)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    assert change == calibration.calibration_change(confidence, right, sharper, right)


def test_overconfident_errors() -> None:
    confidence = np.array([0.95, 0.9, 0.89, 0.99])
    assert calibration.overconfident(confidence, np.array([False, False, False, True])) == 0.5
