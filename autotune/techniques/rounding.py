"""Round-to-nearest quantisation of weights: per channel and in blocks. numpy only, vectorised, deterministic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Clipping factors tried for every block of 4 bits and less; the one with the least squared error wins. Outliers cost
# few levels this way. 8 bits gain nothing measurable from it.
_CLIP_FACTORS = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)


@dataclass(frozen=True)
class Blocks:
    """A weight matrix in blocks along its reduction axis.

    `levels`: int8 [outputs, blocks, block], in [-2**(bits-1), 2**(bits-1) - 1], padded with 0 at the end of a row.
    `scales`: float32 [outputs, blocks]. The value of a weight is level * scale.
    """

    levels: np.ndarray
    scales: np.ndarray
    length: int  # reduction length before padding

    def restore(self) -> np.ndarray:
        """float32 [outputs, length]."""
        values = self.levels.astype(np.float32) * self.scales[..., None]
        rows: np.ndarray = values.reshape(values.shape[0], -1)[:, : self.length]
        return rows


def per_channel_int8(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with one scale per index of `axis`: (int8 like weight in [-127, 127], float32 [channels]).

    An all-zero channel gets scale 1, so that no scale is ever 0.
    """
    other = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=other) if weight.size else np.zeros(weight.shape[axis])
    scales = np.where(peak > 0, peak / 127.0, 1.0).astype(np.float32)
    # A channel of denormals would underflow to scale 0.
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels = np.clip(np.rint(weight / scales.reshape(shape)), -127, 127).astype(np.int8)
    return levels, scales


def in_blocks(matrix: np.ndarray, bits: int, block: int) -> Blocks:
    """Symmetric quantisation of `matrix` (float32 [outputs, length]) to `bits` in blocks of `block` along the length.

    The element of largest magnitude maps to the lowest level -2**(bits-1), which exists only once: with its sign in
    the scale no level is wasted (the convention of ONNX Runtime's symmetric MatMulNBits).
    """
    outputs, length = matrix.shape
    blocks = -(-length // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :length] = matrix
    values = padded.reshape(outputs, blocks, block)
    half = 1 << (bits - 1)
    where = np.abs(values).argmax(axis=-1)[..., None]
    peak = np.take_along_axis(values, where, axis=-1)[..., 0]
    best_levels = np.zeros(values.shape, np.float32)
    best_scales = np.ones(peak.shape, np.float32)
    best_error = np.full(peak.shape, np.inf)
    for factor in _CLIP_FACTORS if bits <= 4 else (1.0,):
        scales = (peak * factor / -half).astype(np.float32)
        scales = np.where(np.abs(scales) < np.finfo(np.float32).tiny, np.float32(1.0), scales)
        levels = np.clip(np.rint(values / scales[..., None]), -half, half - 1)
        error = np.square(levels * scales[..., None] - values).sum(axis=-1)
        better = error < best_error
        best_levels = np.where(better[..., None], levels, best_levels)
        best_scales = np.where(better, scales, best_scales)
        best_error = np.where(better, error, best_error)
    return Blocks(best_levels.astype(np.int8), best_scales.astype(np.float32), length)


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
