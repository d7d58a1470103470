"""Grids: the levels they name are the nearest, and NormalFloat is what its paper says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from autotune.techniques.rounding import CHANNEL, NF4, Grid, Steps, to_nearest


def test_normal_float_holds_quantiles_of_the_normal_distribution() -> None:
    """As arXiv 2305.14314 makes them: 8 negative and 7 positive quantiles of equal share, and 0."""
    last = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2  # the mean of the two halves' outermost shares
    positive = norm.ppf(np.linspace(last, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(last, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([positive, [0.0], negative])) / positive.max()
    np.testing.assert_allclose(NF4.values, expected, atol=2e-6)


@settings(deadline=None, max_examples=80)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=st.floats(-8, 8, width=32)),
    st.sampled_from([16, 64]),
)
def test_a_codebooks_levels_are_the_nearest_and_its_scale_the_largest_magnitude(matrix: np.ndarray, block: int) -> None:
    made = to_nearest(matrix, NF4, block)
    assert made.levels.min() >= 0 and made.levels.max() <= 15 and (made.scales > 0).all()
    scales = np.repeat(made.scales, block, axis=1)[:, : matrix.shape[1]].astype(np.float64)
    every = scales[..., None] * np.array(NF4.values)
    best = np.abs(every - matrix[..., None]).min(axis=-1)
    assert (np.abs(made.restore() - matrix.astype(np.float64)) <= best + 1e-6 * scales).all()
    for begin in range(0, matrix.shape[1], block):
        peak = np.abs(matrix[:, begin : begin + block]).max(axis=1)
        found = made.scales[:, begin // block]
        np.testing.assert_array_equal(found[peak > 1e-30], peak[peak > 1e-30])


@pytest.mark.parametrize("grid", [Steps(2), Steps(4), Steps(8), CHANNEL, NF4])
def test_zero_has_a_level(grid: Grid) -> None:
    scale = grid.scales(np.array([0.3, -0.7, 0.0], np.float32))
    assert grid.restore(grid.levels(np.zeros(1), scale), scale) == 0


def test_wide_tails_cost_normal_float_less_than_even_steps() -> None:
    """On normal weights NF4 loses less than 4 bits in even steps without clipping: what it is for."""
    matrix = np.random.default_rng(0).normal(size=(64, 640)).astype(np.float32)
    blocks = matrix.reshape(64, 10, 64)
    scale = np.abs(blocks).max(-1, keepdims=True) / 7
    even = np.square(np.clip(np.rint(blocks / scale), -7, 7) * scale - blocks).sum()
    assert np.square(to_nearest(matrix, NF4, 64).restore() - matrix).sum() < 0.9 * even
