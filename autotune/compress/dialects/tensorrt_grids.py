"""What NVIDIA's formats can hold: grids whose scales are stored in 16 bit or less, and are positive.

Levels are found with the scale as it is stored, so what a scale loses by its own rounding costs no accuracy but a
slightly longer step. TensorRT's parser refuses scales that are not positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)  # Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433
E2M1 = np.dtype(ml_dtypes.float4_e2m1fn)  # OCP Microscaling Formats (MX) specification 1.0, section 5.3.3
E4M3_MAX, E2M1_MAX = 448.0, 6.0
_E4M3_LEAST = 2.0**-9  # above 0
_TINY = 2.0**-126  # the smallest normal float32

_HALF = np.finfo(np.float16)
_CLIP_FACTORS = (1.0, 0.94, 0.875, 0.82, 0.76, 0.7)  # 7/8 maps a negative peak to the lowest level, -8


def stored(scales: np.ndarray) -> np.ndarray:
    """Scales as float16 holds them, rounded up so that nothing is clipped; float32, never 0."""
    wanted = np.clip(scales, _HALF.smallest_subnormal, _HALF.max)
    nearest = wanted.astype(np.float16)
    up = np.where(nearest.astype(np.float64) < wanted, np.nextafter(nearest, np.float16(np.inf)), nearest)
    found: np.ndarray = np.minimum(up, _HALF.max).astype(np.float32)
    return found


@dataclass(frozen=True)
class HalfSteps:
    """Equal steps of `bits` with positive float16 scales, levels in [-2**(bits-1), 2**(bits-1) - 1].

    At 4 bits and less the clipping factor with the least squared error is chosen for each block. `full` False leaves
    out the lowest level, as integer kernels want it.
    """

    bits: int
    full: bool = True

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        peak = np.abs(blocks).max(axis=-1) if blocks.size else np.zeros(blocks.shape[:-1])
        best = stored(np.where(peak > 0, peak / self.highest, 1.0))
        if self.bits > 4:
            return best
        least = np.full(peak.shape, np.inf)
        for factor in _CLIP_FACTORS:
            scales = stored(np.where(peak > 0, peak * factor / self.highest, 1.0))
            error = np.square(self.levels(blocks, scales[..., None]) * scales[..., None] - blocks).sum(axis=-1)
            best = np.where(error < least, scales, best)
            least = np.minimum(error, least)
        return best

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        lowest = -self.highest - (1 if self.full else 0)
        nearest: np.ndarray = np.clip(np.rint(values / scales), lowest, self.highest)
        return nearest

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values: np.ndarray = levels.astype(np.float32) * scales
        return values


@dataclass(frozen=True)
class Minifloat:
    """A float of 8 or 4 bits without infinity, rounded to nearest even and saturating. A level is its code, negative
    where the sign is set: [-126, 126] of E4M3, [-7, 7] of E2M1."""

    kind: np.dtype[np.generic] = E4M3

    @property
    def highest(self) -> float:
        return E4M3_MAX if self.kind == E4M3 else E2M1_MAX

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        peak = np.abs(blocks).max(axis=-1) if blocks.size else np.zeros(blocks.shape[:-1])
        return stored(np.where(peak > 0, peak / self.highest, 1.0))

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        real = np.clip(np.asarray(values, np.float32) / np.asarray(scales, np.float32), -self.highest, self.highest)
        codes = real.astype(self.kind).view(np.uint8)
        sign = self._sign
        found: np.ndarray = np.where(codes & sign, -(codes & (sign - 1)).astype(np.int16), codes & (sign - 1))
        return found

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values: np.ndarray = self.codes(levels).view(self.kind).astype(np.float32) * scales
        return values

    def codes(self, levels: np.ndarray) -> np.ndarray:
        """The bits of levels, uint8 each."""
        level = levels.astype(np.int16)
        bits: np.ndarray = np.where(level < 0, -level | self._sign, level).astype(np.uint8)
        return bits

    @property
    def _sign(self) -> int:
        return 0x80 if self.kind == E4M3 else 0x08


@dataclass(frozen=True)
class Nvfp4:
    """E2M1 whose block scales are E4M3 times `whole`, one float32 for the tensor (NVIDIA, Introducing NVFP4, 2025)."""

    whole: float

    @classmethod
    def of(cls, values: np.ndarray) -> Nvfp4:
        """`whole` so that the block with the largest value has the largest E4M3 scale."""
        peak = float(np.abs(values).max()) if values.size else 0.0
        return cls(float(np.float32(max(peak / (E4M3_MAX * E2M1_MAX), _TINY))))

    def scales(self, blocks: np.ndarray) -> np.ndarray:
        peak = np.abs(blocks).max(axis=-1) if blocks.size else np.zeros(blocks.shape[:-1])
        wanted = np.clip(peak / (E2M1_MAX * self.whole), _E4M3_LEAST, E4M3_MAX).astype(np.float32)
        found: np.ndarray = wanted.astype(E4M3).astype(np.float32) * np.float32(self.whole)
        return found

    def levels(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return Minifloat(E2M1).levels(values, scales)

    def restore(self, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return Minifloat(E2M1).restore(levels, scales)
