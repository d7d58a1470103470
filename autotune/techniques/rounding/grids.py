"""Grids: which values the weights of one block can take, and the scale that is chosen for a block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Clipping factors tried for every block of 4 bits and less; the one with the least squared error wins. Outliers cost
# few levels this way. 8 bits gain nothing measurable from it.
_CLIP_FACTORS = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
_HALF_CLIP_FACTORS = (1.0, 0.94, 0.875, 0.82, 0.76, 0.7)  # 7/8 maps a negative peak to the lowest level, -8
_TINY = np.finfo(np.float32).tiny
_HALF = np.finfo(np.float16)


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


class _EqualSteps(ABC):
    """Levels are whole numbers, value = level * scale."""

    @property
    @abstractmethod
    def lowest(self) -> int:
        """The lowest level."""

    @property
    @abstractmethod
    def highest(self) -> int:
        """The highest level."""

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        nearest: np.ndarray = np.clip(np.rint(values / scales), self.lowest, self.highest)
        return nearest

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values: np.ndarray = levels.astype(np.float32) * scales
        return values

    def _least_error(self, blocks: np.ndarray, tried: Iterable[np.ndarray], otherwise: np.ndarray) -> np.ndarray:
        """Of the scales tried for each block those with the least squared error, the first of equals."""
        best, least = otherwise, np.full(otherwise.shape, np.inf)
        for scales in tried:
            error = np.square(self.levels(blocks, scales[..., None]) * scales[..., None] - blocks).sum(axis=-1)
            better = error < least
            best, least = np.where(better, scales, best), np.where(better, error, least)
        return best


@dataclass(frozen=True)
class Steps(_EqualSteps):
    """Equal steps of `bits`, levels in [-2**(bits-1), 2**(bits-1) - 1], value = level * scale.

    The element of largest magnitude maps to the lowest level, which exists only once: with its sign in the scale no
    level is wasted (the convention of ONNX Runtime's symmetric MatMulNBits).
    """

    bits: int

    @property
    def lowest(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        where = np.abs(blocks).argmax(axis=-1)[..., None]
        peak = np.take_along_axis(blocks, where, axis=-1)[..., 0]
        factors = _CLIP_FACTORS if self.bits <= 4 else (1.0,)
        tried = ((peak * factor / self.lowest).astype(np.float32) for factor in factors)
        usable = (np.where(np.abs(scales) < _TINY, np.float32(1.0), scales) for scales in tried)
        return self._least_error(blocks, usable, np.ones(peak.shape, np.float32))


@dataclass(frozen=True)
class HalfSteps(_EqualSteps):
    """Equal steps of `bits` with positive float16 scales, levels in [-2**(bits-1), 2**(bits-1) - 1].

    Levels are found with the scale as it is stored, so what a scale loses by its own rounding costs no accuracy but a
    slightly longer step. At 4 bits and less the clipping factor with the least squared error is chosen for each block.
    `full` False leaves out the lowest level, as integer kernels want it.
    """

    bits: int
    full: bool = True

    @property
    def lowest(self) -> int:
        return -self.highest - (1 if self.full else 0)

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        peak = np.abs(blocks).max(axis=-1) if blocks.size else np.zeros(blocks.shape[:-1])
        largest = half_scales(np.where(peak > 0, peak / self.highest, 1.0))
        if self.bits > 4:
            return largest
        tried = (half_scales(np.where(peak > 0, peak * f / self.highest, 1.0)) for f in _HALF_CLIP_FACTORS)
        return self._least_error(blocks, tried, largest)


def half_scales(scales: np.ndarray) -> np.ndarray:
    """Scales as float16 holds them, rounded up so that nothing is clipped; float32, never 0."""
    wanted = np.clip(scales, _HALF.smallest_subnormal, _HALF.max)
    nearest = wanted.astype(np.float16)
    up = np.where(nearest.astype(np.float64) < wanted, np.nextafter(nearest, np.float16(np.inf)), nearest)
    found: np.ndarray = np.minimum(up, _HALF.max).astype(np.float32)
    return found


@dataclass(frozen=True)
class Channel(_EqualSteps):
    """int8 with a positive scale and levels in [-127, 127]: what integer kernels take, one block per channel.

    A block of zeros gets scale 1, so that no scale is ever 0.
    """

    @property
    def lowest(self) -> int:
        return -127

    @property
    def highest(self) -> int:
        return 127

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        peak = np.abs(blocks).max(axis=-1) if blocks.size else np.zeros(blocks.shape[:-1])
        scales = np.where(peak > 0, peak / 127.0, 1.0).astype(np.float32)
        return np.maximum(scales, _TINY)  # a channel of denormals would underflow to scale 0


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
