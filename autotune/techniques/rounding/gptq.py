"""Rounding that makes up for its own errors: GPTQ (Frantar et al., arXiv 2210.17323), in float64.

The columns of a weight are rounded one after the other; what one column loses is taken over by those that come after
it, as far as their inputs go along with its input. The order is that of the blocks which the kernels read.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dtrtri

from autotune.techniques.rounding.grids import Grid
from autotune.techniques.rounding.nearest import Blocks, to_nearest

DAMPING = 0.01  # of the mean of the Hessian's diagonal, added to it
_LAZY = 128  # columns that are updated at once; those behind them follow in one product
_ROWS = 1024  # outputs at a time, so that what is updated over and over stays in the cache


def compensated(weight: np.ndarray, gram: np.ndarray, grid: Grid, block: int) -> Blocks:
    """`weight` (float32 `[groups, outputs, inputs]`) rounded to `grid` in blocks of `block` inputs.

    `gram` is the mean of x xᵀ of what each group reads, `[groups, inputs, inputs]`. An output for which rounding to
    nearest has the smaller mean squared error on these x is rounded to nearest, so that none is ever worse. Weights
    that are exactly 0 stay 0 (as in SparseGPT, arXiv 2301.00774): a pattern of zeros is a decision.
    """
    groups, outputs, inputs = weight.shape
    hessian = gram.astype(np.float64)
    upper = _inverse_factor(hessian)
    plain = to_nearest(weight.reshape(groups * outputs, inputs), grid, block)
    levels, scales = plain.levels.copy(), plain.scales.copy()
    for begin in range(0, outputs, _ROWS):
        part = weight[:, begin : begin + _ROWS].astype(np.float64)
        rows = part.shape[1]
        # Rows of this part in the flat order, in which each group has `outputs` rows.
        flat = (np.arange(groups)[:, None] * outputs + np.arange(begin, begin + rows)).reshape(-1)
        found, its_scales = _part(part.copy(), upper, grid, block)
        padded = np.zeros((len(flat), levels.shape[1] * block), np.int8)
        padded[:] = grid.levels(np.zeros(1), np.ones(1)).astype(np.int8)
        padded[:, :inputs] = found.reshape(-1, inputs)
        tried = Blocks(padded.reshape(len(flat), -1, block), its_scales.reshape(len(flat), -1), inputs, grid)
        before = Blocks(levels[flat], scales[flat], inputs, grid)
        better = _loss(part, tried, hessian) < _loss(part, before, hessian)
        levels[flat[better]] = tried.levels[better]
        scales[flat[better]] = tried.scales[better]
    return Blocks(levels, scales, inputs, grid)


def _part(current: np.ndarray, upper: np.ndarray, grid: Grid, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(levels `[groups, rows, inputs]`, scales `[groups, rows, blocks]`); `current` is used up."""
    groups, rows, inputs = current.shape
    zero = current == 0
    levels = np.empty(current.shape, np.int8)
    scales = np.empty((groups, rows, -(-inputs // block)), np.float32)
    begin = 0
    while begin < inputs:
        end = min(inputs, _next_stop(begin, block))
        errors = np.empty((groups, rows, end - begin))
        for column in range(begin, end):
            if column % block == 0:
                values = np.zeros((groups, rows, block))
                width = min(block, inputs - column)
                ahead = slice(column, column + width)
                values[..., :width] = np.where(zero[..., ahead], 0.0, current[..., ahead])
                scales[..., column // block] = grid.scales(values)
            scale = scales[..., column // block]
            level = grid.levels(np.where(zero[..., column], 0.0, current[..., column]), scale)
            levels[..., column] = level
            error = current[..., column] - grid.restore(level, scale)
            error /= upper[:, column, column][:, None]
            current[..., column + 1 : end] -= error[..., None] * upper[:, None, column, column + 1 : end]
            errors[..., column - begin] = error
        current[..., end:] -= errors @ upper[:, begin:end, end:]
        begin = end
    return levels, scales


def _next_stop(begin: int, block: int) -> int:
    """End of the columns that are updated at once. At the start of a block all of its columns must be up to date."""
    if block <= _LAZY:
        return begin + _LAZY // block * block
    return min(begin + _LAZY, (begin // block + 1) * block)


def _inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """Upper U with Uᵀ U = (damped Hessian)⁻¹, `[groups, inputs, inputs]`.

    From H = R Rᵀ with R upper (Cholesky of H read backwards) and U = R⁻¹: H itself is never inverted. In place where
    that is possible: for wide layers these matrices are what takes memory.
    """
    upper = np.empty_like(hessian)
    for group, each in enumerate(hessian):
        damped = each.copy()
        mean = damped.diagonal().mean()
        damped.flat[:: len(damped) + 1] += DAMPING * mean if mean > 0 else 1.0
        root = np.linalg.cholesky(damped[::-1, ::-1])
        del damped
        inverse, _ = dtrtri(root.T, overwrite_c=True)  # LAPACK wants columns first, in which order the root is upper
        upper[group] = inverse.T[::-1, ::-1]
    return upper


def _loss(part: np.ndarray, rounded: Blocks, hessian: np.ndarray) -> np.ndarray:
    """Mean squared error of each output, `[groups * rows]`."""
    values = rounded.restore().astype(np.float64).reshape(part.shape)
    error = part - values
    loss: np.ndarray = np.einsum("gri,gri->gr", error @ hessian, error).reshape(-1)
    return loss
