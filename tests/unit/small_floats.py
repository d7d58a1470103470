"""Small floats from their definitions, and rounding to them, in float64: references for what the library does."""

from __future__ import annotations

import numpy as np

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def e4m3() -> np.ndarray:
    """All non-negative finite E4M3 numbers, from the definition: 4 bits of exponent with bias 7, 3 of mantissa."""
    small = [m / 8 * 2.0**-6 for m in range(8)]
    normal = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    return np.array(small + normal[:-1])  # the last one is NaN


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Nearest of the table's magnitudes, saturating; of two equally near the one with the even index."""
    size = np.abs(values)[..., None]
    distance = np.abs(size - table)
    first = distance.argmin(axis=-1)
    second = np.minimum(first + 1, len(table) - 1)
    tie = np.take_along_axis(distance, second[..., None], -1)[..., 0] == distance.min(axis=-1)
    index = np.where(tie & (first % 2 == 1), second, first)
    return np.asarray(np.sign(values) * table[index])


def half_up(value: np.ndarray) -> np.ndarray:
    """The smallest float16 that is not below."""
    half = value.astype(np.float16)
    return np.where(half < value, np.nextafter(half, np.float16(np.inf)), half).astype(np.float64)


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)
