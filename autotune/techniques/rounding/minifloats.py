"""Grids of small floats, as NVIDIA's cards compute with them; scales are positive, in float16 or in E4M3."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from autotune.techniques.rounding.grids import half_scales

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)  # Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433
E2M1 = np.dtype(ml_dtypes.float4_e2m1fn)  # OCP Microscaling Formats (MX) specification 1.0, section 5.3.3
E4M3_MAX, E2M1_MAX = 448.0, 6.0
_E4M3_LEAST = 2.0**-9  # above 0
_TINY = 2.0**-126  # the smallest normal float32


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
        return half_scales(np.where(peak > 0, peak / self.highest, 1.0))

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
