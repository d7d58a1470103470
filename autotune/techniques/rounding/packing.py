"""Levels of fewer than 8 bits, packed into bytes."""

from __future__ import annotations

import numpy as np


def pack_bits(levels: np.ndarray, bits: int) -> np.ndarray:
    """Pack unsigned `levels` (uint8, < 2**bits) along the last axis, lowest bits first: uint8 [..., n * bits / 8].

    The last axis must be a multiple of 8 / bits.
    """
    per_byte = 8 // bits
    if per_byte == 1:
        return levels.astype(np.uint8)
    grouped = levels.reshape(*levels.shape[:-1], -1, per_byte)
    packed = np.zeros(grouped.shape[:-1], np.uint8)
    for position in range(per_byte):
        packed |= (grouped[..., position] << (bits * position)).astype(np.uint8)
    return packed
