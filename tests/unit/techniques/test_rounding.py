"""Rounding against independent float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune.techniques.rounding import in_blocks, pack_bits, per_channel_int8

_MATRICES = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 70)), elements=st.floats(-8, 8, width=32))


@settings(deadline=None, max_examples=60)
@given(_MATRICES)
def test_per_channel_error_is_at_most_half_a_step(matrix: np.ndarray) -> None:
    levels, scales = per_channel_int8(matrix, 0)
    assert levels.dtype == np.int8 and levels.min() >= -127
    error = np.abs(levels.astype(np.float64) * scales[:, None].astype(np.float64) - matrix)
    assert (error <= scales[:, None] * 0.5001).all()


def test_axis_of_the_scale_is_the_output_axis() -> None:
    weight = np.array([[1.0, 100.0], [0.5, 50.0]], np.float32)
    _, scales = per_channel_int8(weight, 1)
    np.testing.assert_allclose(scales, [1 / 127, 100 / 127], rtol=1e-6)


def test_a_channel_of_zeros_has_a_usable_scale() -> None:
    levels, scales = per_channel_int8(np.zeros((2, 3), np.float32), 0)
    assert (levels == 0).all() and (scales > 0).all()


@settings(deadline=None, max_examples=60)
@given(_MATRICES, st.sampled_from([2, 4, 8]), st.sampled_from([16, 32]))
def test_blocks_never_lose_more_than_plain_absmax_rounding(matrix: np.ndarray, bits: int, block: int) -> None:
    made = in_blocks(matrix, bits, block)
    half = 1 << (bits - 1)
    assert made.levels.min() >= -half and made.levels.max() <= half - 1
    assert made.restore().shape == matrix.shape
    columns = -(-matrix.shape[1] // block) * block
    padded = np.zeros((matrix.shape[0], columns))
    padded[:, : matrix.shape[1]] = matrix
    blocks = padded.reshape(matrix.shape[0], -1, block)
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scale = np.where(peak == 0, 1.0, peak / -half)
    plain = np.clip(np.rint(blocks / scale), -half, half - 1) * scale
    ours = (made.levels.astype(np.float64) * made.scales[..., None]).reshape(blocks.shape)
    assert np.square(ours - blocks).sum() <= np.square(plain - blocks).sum() * 1.001 + 1e-9


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_bits_come_back_lowest_first(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, (3, 16)).astype(np.uint8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (3, 16 * bits // 8)
    per_byte = 8 // bits
    unpacked = np.stack([(packed >> (bits * i)) & ((1 << bits) - 1) for i in range(per_byte)], -1).reshape(3, 16)
    np.testing.assert_array_equal(unpacked, codes)
