"""Rounding with compensation: against the paper's loop written out plainly, and what it promises for any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.techniques.moments import Moments
from autotune.techniques.rounding import (
    CHANNEL,
    NF4,
    Grid,
    Rounding,
    Steps,
    compensated,
    output_shift,
    round_weight,
    to_nearest,
)

GRIDS: dict[str, Grid] = {"2 bit": Steps(2), "4 bit": Steps(4), "8 bit": Steps(8), "channel": CHANNEL, "nf4": NF4}


def correlated(inputs: int, rows: int, seed: int, groups: int = 1) -> np.ndarray:
    """Float64 `[groups, rows, inputs]` whose columns go along with each other."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(groups, inputs, inputs)) / np.arange(1, inputs + 1) ** 0.7
    return rng.normal(size=(groups, rows, inputs)) @ mix.transpose(0, 2, 1) + 0.3


def gram_of(x: np.ndarray) -> np.ndarray:
    return (x.transpose(0, 2, 1) @ x / x.shape[1]).astype(np.float32)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def losses(weight: np.ndarray, rounded: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """E ((w - q) x)² of each output, float64 `[groups, outputs]`."""
    error = weight.astype(np.float64) - rounded.reshape(weight.shape)
    return np.einsum("gri,gij,grj->gr", error, gram.astype(np.float64), error)


def plain_loop(weight: np.ndarray, gram: np.ndarray, grid: Grid, block: int) -> np.ndarray:
    """Optimal brain quantisation in a fixed order, one weight after the other, with the inverse Hessian of those that
    are left (algorithm of arXiv 2210.17323, without its Cholesky form, batches or any sharing between outputs)."""
    outputs, inputs = weight.shape
    hessian = gram.astype(np.float64) + 0.01 * np.diag(gram).astype(np.float64).mean() * np.eye(inputs)
    result = np.empty((outputs, inputs))
    for output in range(outputs):
        left = np.linalg.inv(hessian)
        row = weight[output].astype(np.float64).copy()
        scale = np.ones(())
        for column in range(inputs):
            if column % block == 0:
                values = np.zeros(block)
                here = row[column : column + block]
                values[: len(here)] = here
                scale = grid.scales(values)
            value = float(grid.restore(grid.levels(row[column], scale), scale))
            result[output, column] = value
            row[column + 1 :] -= (row[column] - value) / left[0, 0] * left[0, 1:]
            left = left[1:, 1:] - np.outer(left[1:, 0], left[0, 1:]) / left[0, 0]
    return result


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("inputs", "block"), [(40, 16), (150, 48), (300, 32), (300, 150), (37, 37), (20, 32)])
def test_is_the_papers_loop(name: str, inputs: int, block: int) -> None:
    grid, weight, gram = GRIDS[name], weights(1, 3, inputs), gram_of(correlated(inputs, 800, seed=1))
    loop = plain_loop(weight[0], gram[0], grid, block)
    nearest = to_nearest(weight[0], grid, block).restore()
    better = losses(weight, loop, gram) < losses(weight, nearest, gram)
    expected = np.where(better[0][:, None], loop, nearest)
    np.testing.assert_allclose(compensated(weight, gram, grid, block).restore(), expected, rtol=1e-6, atol=1e-7)
    assert better.any()


def test_groups_are_rounded_each_by_what_it_reads() -> None:
    weight, gram = weights(3, 4, 18), gram_of(correlated(18, 500, seed=2, groups=3))
    together = compensated(weight, gram, Steps(4), 20)
    alone = [compensated(weight[[g]], gram[[g]], Steps(4), 20) for g in range(3)]
    np.testing.assert_array_equal(together.levels, np.concatenate([a.levels for a in alone]))
    np.testing.assert_array_equal(together.scales, np.concatenate([a.scales for a in alone]))


def test_more_outputs_than_are_done_at_once() -> None:
    weight, gram = weights(2, 1500, 24), gram_of(correlated(24, 500, seed=3, groups=2))
    together = compensated(weight, gram, Steps(4), 16).restore().reshape(weight.shape)
    part = compensated(weight[:, 1020:1030], gram, Steps(4), 16).restore().reshape(2, 10, 24)
    np.testing.assert_array_equal(together[:, 1020:1030], part)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(list(GRIDS)),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 90),
    st.sampled_from([4, 16, 32, 64]),
    st.integers(0, 10_000),
)
def test_no_output_is_worse_than_to_nearest(
    name: str, groups: int, outputs: int, inputs: int, block: int, seed: int
) -> None:
    grid, weight = GRIDS[name], weights(groups, outputs, inputs, seed=seed)
    gram = gram_of(correlated(inputs, 1 + seed % 60, seed, groups))  # often fewer samples than inputs
    made = compensated(weight, gram, grid, block)
    low, high = {"2 bit": (-2, 1), "4 bit": (-8, 7), "8 bit": (-128, 127), "channel": (-127, 127), "nf4": (0, 15)}[name]
    assert made.levels.dtype == np.int8 and made.levels.min() >= low and made.levels.max() <= high
    assert made.scales.dtype == np.float32 and np.isfinite(made.scales).all() and (made.scales != 0).all()
    nearest = to_nearest(weight.reshape(-1, inputs), grid, block).restore()
    allowed = losses(weight, nearest, gram)
    assert (losses(weight, made.restore(), gram) <= allowed * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize(("name", "share"), [("2 bit", 0.4), ("4 bit", 0.4), ("channel", 0.4), ("nf4", 0.4)])
def test_loses_far_less_on_inputs_it_has_not_seen(name: str, share: float) -> None:
    x = correlated(128, 4000, seed=4)
    weight, gram, unseen = weights(1, 48, 128), gram_of(x[:, :3000]), gram_of(x[:, 3000:])
    block = 128 if name == "channel" else 32
    made, nearest = compensated(weight, gram, GRIDS[name], block), to_nearest(weight[0], GRIDS[name], block)
    assert losses(weight, made.restore(), unseen).sum() < share * losses(weight, nearest.restore(), unseen).sum()


@pytest.mark.parametrize("name", GRIDS)
def test_what_the_grid_holds_is_kept_exactly(name: str) -> None:
    grid = GRIDS[name]
    coarse = to_nearest(weights(1, 5, 96)[0], grid, 32)
    # Each block's largest magnitude lies at the end of the grid, so that its scale is found again.
    end = 0 if name == "nf4" else {"2 bit": -2, "4 bit": -8, "8 bit": -128, "channel": -127}[name]
    coarse.levels[..., 7] = end
    weight = coarse.restore()[None]
    made = compensated(weight, gram_of(correlated(96, 300, seed=5)), grid, 32)
    np.testing.assert_array_equal(made.restore(), weight[0])


def test_independent_inputs_are_rounded_to_nearest() -> None:
    weight = weights(1, 6, 70)
    made = compensated(weight, np.eye(70, dtype=np.float32)[None] * 3, Steps(4), 32)
    nearest = to_nearest(weight[0], Steps(4), 32)
    np.testing.assert_array_equal(made.levels, nearest.levels)
    np.testing.assert_array_equal(made.scales, nearest.scales)


@pytest.mark.parametrize("name", GRIDS)
def test_zeros_stay_zero(name: str) -> None:
    weight = weights(1, 8, 100)
    weight[np.random.default_rng(0).random(weight.shape) < 0.5] = 0
    made = compensated(weight, gram_of(correlated(100, 400, seed=6)), GRIDS[name], 32)
    assert (made.restore()[weight[0] == 0] == 0).all()


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    x = correlated(40, 300, seed=7)
    x[..., ::3] = 0
    weight = weights(1, 4, 40)
    for gram in (gram_of(x), np.zeros((1, 40, 40), np.float32)):
        made = compensated(weight, gram, Steps(4), 16).restore()
        np.testing.assert_allclose(made, weight[0], atol=np.abs(weight).max() / 4)


# -- of layers


CONV = Layer("conv", "Conv", ("n",), "w", (6, 2, 3, 3), 0, 108, group=3)


def moments_of(x: np.ndarray) -> Moments:
    return Moments(gram_of(x), x.mean(axis=1).astype(np.float32), x.shape[1])


def test_a_grouped_convolution_takes_its_groups_moments() -> None:
    weight, x = weights(6, 2, 3, 3), correlated(18, 400, seed=8, groups=3)
    made = round_weight(CONV, weight, Steps(4), 20, Rounding("gptq", moments=moments_of(x)))
    expected = compensated(weight.reshape(3, 2, 18), gram_of(x), Steps(4), 20)
    np.testing.assert_array_equal(made.levels, expected.levels)
    assert (made.levels != round_weight(CONV, weight, Steps(4), 20, Rounding("gptq")).levels).any()


def test_the_shift_is_what_the_outputs_means_lose() -> None:
    weight, x = weights(6, 2, 3, 3), correlated(18, 400, seed=9, groups=3)
    rounded = to_nearest(weight.reshape(6, 18), Steps(2), 20).restore()
    by_group = weight.reshape(3, 2, 18).astype(np.float64), rounded.reshape(3, 2, 18)
    expected = np.concatenate([((by_group[0][g] - by_group[1][g]) @ x[g].T).mean(axis=1) for g in range(3)])
    np.testing.assert_allclose(output_shift(CONV, weight, rounded, moments_of(x)), expected, rtol=1e-4, atol=1e-6)


def test_moments_of_another_shape_and_of_no_use_are_told() -> None:
    weight, x = weights(6, 2, 3, 3), correlated(18, 50, seed=0, groups=2)
    with pytest.raises(TrialFailure, match="'conv' reads 3 x 18 inputs, but its moments are 2 x 18 x 18"):
        round_weight(CONV, weight, Steps(4), 20, Rounding("gptq", moments=moments_of(x)))
    x = correlated(18, 50, seed=0, groups=3)
    x[0, 0, 0] = np.nan
    with pytest.raises(TrialFailure, match="NaN or infinity"):
        round_weight(CONV, weight, Steps(4), 20, Rounding("gptq", moments=moments_of(x)))
