"""Rounding to the nearest level: per channel and in blocks. Vectorised, deterministic."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autotune.techniques.rounding.grids import CHANNEL, Grid, Steps


@dataclass(frozen=True)
class Blocks:
    """A weight matrix in blocks along its reduction axis.

    `levels`: int8 [outputs, blocks, block], padded with the level of 0 at the end of a row. `scales`: float32
    [outputs, blocks]. The value of a weight is what `grid` restores from its level and scale.
    """

    levels: np.ndarray
    scales: np.ndarray
    length: int  # reduction length before padding
    grid: Grid = field(default_factory=lambda: CHANNEL)

    def restore(self) -> np.ndarray:
        """float32 [outputs, length]."""
        values = self.grid.restore(self.levels, self.scales[..., None])
        rows: np.ndarray = values.reshape(values.shape[0], -1)[:, : self.length]
        return rows


def to_nearest(matrix: np.ndarray, grid: Grid, block: int) -> Blocks:
    """`matrix` (float32 [outputs, length]) rounded to `grid` in blocks of `block` along the length."""
    outputs, length = matrix.shape
    blocks = -(-length // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :length] = matrix
    values = padded.reshape(outputs, blocks, block)
    scales = grid.scales(values)
    return Blocks(grid.levels(values, scales[..., None]).astype(np.int8), scales, length, grid)


def in_blocks(matrix: np.ndarray, bits: int, block: int) -> Blocks:
    """Symmetric quantisation of `matrix` (float32 [outputs, length]) to `bits` in blocks; see `grids.Steps`."""
    return to_nearest(matrix, Steps(bits), block)


def per_channel_int8(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with one scale per index of `axis`: (int8 like weight in [-127, 127], float32 [channels]).

    An all-zero channel gets scale 1, so that no scale is ever 0.
    """
    rows = np.moveaxis(weight, axis, 0)
    scales = CHANNEL.scales(rows.reshape(rows.shape[0], -1) if weight.size else np.zeros((rows.shape[0], 1)))
    shape = [1] * weight.ndim
    shape[axis] = -1
    return CHANNEL.levels(weight, scales.reshape(shape)).astype(np.int8), scales
