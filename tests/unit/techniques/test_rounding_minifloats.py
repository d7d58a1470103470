"""Grids with scales in 16 bit or less: small floats, and equal steps as cards store them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from autotune.techniques.rounding import Grid, HalfSteps, to_nearest
from autotune.techniques.rounding.minifloats import Minifloat, Nvfp4
from tests.unit.small_floats import E2M1, e4m3, nearest


@pytest.mark.parametrize("values", [np.zeros(32), np.full(32, 1e-9), np.full(32, 1e-30), np.r_[1e-7, np.zeros(31)]])
@pytest.mark.parametrize("grid", [HalfSteps(8, full=False), HalfSteps(4), Minifloat(), Nvfp4(1e-3)])
def test_tiny_weights_have_scales_and_stay_tiny(grid: Grid, values: np.ndarray) -> None:
    made = to_nearest(values[None].astype(np.float32), grid, 16)
    assert (made.scales > 0).all() and np.isfinite(made.scales).all()
    assert np.abs(made.restore() - values).max() <= max(np.abs(values).max(), 1e-30)


@pytest.mark.parametrize(
    ("grid", "table"),
    [(Minifloat(), e4m3()), (Minifloat(np.dtype(ml_dtypes.float4_e2m1fn)), E2M1)],
    ids=["E4M3", "E2M1"],
)
def test_every_code_of_a_minifloat_survives(grid: Minifloat, table: np.ndarray) -> None:
    values = np.r_[-table[::-1], table].astype(np.float32)
    levels = grid.levels(values, np.ones(1)).astype(np.int8)
    assert np.array_equal(grid.restore(levels, np.ones(1, np.float32)), values)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    found = grid.restore(grid.levels(middle, np.ones(1)).astype(np.int8), np.ones(1, np.float32))
    assert np.array_equal(found, nearest(middle.astype(np.float64), table))
