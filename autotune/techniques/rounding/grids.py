"""Grids: which values the weights of one block can take, and the scale that is chosen for a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Clipping factors tried for every block of 4 bits and less; the one with the least squared error wins. Outliers cost
# few levels this way. 8 bits gain nothing measurable from it.
_CLIP_FACTORS = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
_TINY = np.finfo(np.float32).tiny


class Grid(Protocol):
    """Values up to a scale. A weight of exactly 0 has a level of its own in every grid, and is restored as 0."""

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        """float32 `[...]`, one scale for each block of `[..., size]`; never 0."""
        ...

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The nearest level of each value, as whole numbers in a float or integer array; `scales` broadcasts."""
        ...

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The values of levels, float32 or wider."""
        ...


@dataclass(frozen=True)
class Steps:
    """Equal steps of `bits`, levels in [-2**(bits-1), 2**(bits-1) - 1], value = level * scale.

    The element of largest magnitude maps to the lowest level, which exists only once: with its sign in the scale no
    level is wasted (the convention of ONNX Runtime's symmetric MatMulNBits).
    """

    bits: int

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        half = 1 << (self.bits - 1)
        where = np.abs(blocks).argmax(axis=-1)[..., None]
        peak = np.take_along_axis(blocks, where, axis=-1)[..., 0]
        best = np.ones(peak.shape, np.float32)
        best_error = np.full(peak.shape, np.inf)
        for factor in _CLIP_FACTORS if self.bits <= 4 else (1.0,):
            scales = (peak * factor / -half).astype(np.float32)
            scales = np.where(np.abs(scales) < _TINY, np.float32(1.0), scales)
            rounded = self.levels(blocks, scales[..., None]) * scales[..., None]
            error = np.square(rounded - blocks).sum(axis=-1)
            better = error < best_error
            best = np.where(better, scales, best)
            best_error = np.where(better, error, best_error)
        return best

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        half = 1 << (self.bits - 1)
        nearest: np.ndarray = np.clip(np.rint(values / scales), -half, half - 1)
        return nearest

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values: np.ndarray = levels.astype(np.float32) * scales
        return values


@dataclass(frozen=True)
class Channel:
    """int8 with a positive scale and levels in [-127, 127]: what integer kernels take, one block per channel.

    A block of zeros gets scale 1, so that no scale is ever 0.
    """

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        peak = np.abs(blocks).max(axis=-1) if blocks.size else np.zeros(blocks.shape[:-1])
        scales = np.where(peak > 0, peak / 127.0, 1.0).astype(np.float32)
        return np.maximum(scales, _TINY)  # a channel of denormals would underflow to scale 0

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        nearest: np.ndarray = np.clip(np.rint(values / scales), -127, 127)
        return nearest

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values: np.ndarray = levels.astype(np.float32) * scales
        return values


@dataclass(frozen=True)
class Codebook:
    """Any sorted `values` in [-1, 1], 0 among them; a level is an index, the scale the block's largest magnitude."""

    values: tuple[float, ...]

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        peak = np.abs(blocks).max(axis=-1).astype(np.float32)
        return np.where(peak < _TINY, np.float32(1.0), peak)

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        table = np.array(self.values, np.float64)
        found: np.ndarray = np.searchsorted((table[1:] + table[:-1]) / 2, values / scales).astype(np.int8)
        return found

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.array(self.values, np.float32)[levels.astype(np.int64)] * scales
        return values


CHANNEL = Channel()

# 4-bit NormalFloat: quantiles of the normal distribution, 0 among them (Dettmers et al., QLoRA, arXiv 2305.14314,
# appendix E).
NF4 = Codebook(
    (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    )
)
