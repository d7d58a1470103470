"""Quantised operators, exact: integers are computed as integers (in float64, which holds them), rounding is half to
even, and results stay inside of their type.

A real value that lies within the rounding of float32 from the middle between two levels may come out one level beside
what a runtime finds; that is what "rounding flips" are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from autotune.parity.ops_window import Array, convolve

MS = "com.microsoft"


def quantise(x: Array, scale: Array, zero: Array | None, axis: int = 1, block: int = 0, kind: Any = None) -> Array:
    """Levels of x. Without a zero point they have type `kind`, uint8 where that is not given."""
    dtype = zero.dtype if zero is not None else np.dtype(kind or np.uint8)
    low, high = _bounds(dtype)
    steps = np.rint(x / along(scale, x.shape, axis, block))
    if zero is not None:
        steps = steps + along(zero, x.shape, axis, block).astype(np.float64)
    return np.asarray(np.clip(np.nan_to_num(steps, nan=low), low, high).astype(dtype))


def dequantise(x: Array, scale: Array, zero: Array | None, axis: int = 1, block: int = 0) -> Array:
    levels = x.astype(np.float64)
    if zero is not None:
        levels = levels - along(zero, x.shape, axis, block).astype(np.float64)
    return np.asarray(levels * along(scale, x.shape, axis, block))


def along(values: Array, shape: tuple[int, ...], axis: int, block: int = 0) -> Array:
    """Scales or zero points of a tensor of `shape`, as an array that goes with it."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1 and not block:
        return values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    width = block or -(-shape[axis] // values.shape[axis])
    cut = [slice(None)] * values.ndim
    cut[axis] = slice(shape[axis])
    return np.repeat(values, width, axis)[tuple(cut)]


def _bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    name = dtype.name
    if name in ("int4", "uint4", "int2", "uint2"):
        bits = int(name[-1])
        return (0, (1 << bits) - 1) if name.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if dtype.kind not in "iu":
        raise NotImplementedError(f"levels of type {name}")
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def dynamic(x: Array) -> tuple[Array, Array, Array]:
    """(uint8 levels, scale, zero point) of DynamicQuantizeLinear; the scale is a float32, as in every runtime."""
    low, high = np.float32(min(0.0, x.min(initial=0.0))), np.float32(max(0.0, x.max(initial=0.0)))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    wide = np.array(scale, np.float64)
    return quantise(x, wide, np.array(zero)), wide, np.array(zero)


def _centred(levels: Array, zero: Array | None, axis: int) -> Array:
    """Levels minus their zero point, as float64 (exact)."""
    if zero is None:
        return levels.astype(np.float64)
    return levels.astype(np.float64) - along(zero, levels.shape, axis).astype(np.float64)


def integer_product(a: Array, b: Array, a_zero: Array | None, b_zero: Array | None) -> Array:
    """(a - zero) @ (b - zero), exact. Zero points are numbers, or one per row of a and one per column of b."""
    return np.asarray(np.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)))


class QuantizeLinear(OpRun):
    op_domain = ""

    def _run(self, x: Array, scale: Array, zero: Array | None = None, **options: Any) -> tuple[Array]:
        kind = options.get("output_dtype")
        if zero is None and kind:
            from onnx.helper import tensor_dtype_to_np_dtype

            return (
                quantise(
                    x, scale, None, _axis(options), options.get("block_size") or 0, tensor_dtype_to_np_dtype(kind)
                ),
            )
        return (quantise(x, scale, zero, _axis(options), options.get("block_size") or 0),)


class DequantizeLinear(OpRun):
    op_domain = ""

    def _run(self, x: Array, scale: Array, zero: Array | None = None, **options: Any) -> tuple[Array]:
        if "float8" in x.dtype.name:
            zero = None  # the standard has it zero
        return (dequantise(x, scale, zero, _axis(options), options.get("block_size") or 0),)


class DynamicQuantizeLinear(OpRun):
    op_domain = ""

    def _run(self, x: Array) -> tuple[Array, Array, Array]:
        return dynamic(x)


class MatMulInteger(OpRun):
    op_domain = ""

    def _run(
        self, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None, **_: Any
    ) -> tuple[Array]:
        return (integer_product(a, b, a_zero, b_zero).astype(np.int32),)


class ConvInteger(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None, **options: Any
    ) -> tuple[Array]:
        return (convolve(_centred(x, x_zero, 1), _centred(w, w_zero, 0), **options).astype(np.int32),)


class QLinearConv(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, x_scale: Array, x_zero: Array, w: Array, w_scale: Array, w_zero: Array, y_scale: Array,
        y_zero: Array, bias: Array | None = None, **options: Any,
    ) -> tuple[Array]:  # fmt: skip
        sums = convolve(_centred(x, x_zero, 1), _centred(w, w_zero, 0), **options)
        if bias is not None:
            sums = sums + bias.reshape(-1, *[1] * (x.ndim - 2))
        return (quantise(sums * (x_scale * along(w_scale, sums.shape, 1)), y_scale, y_zero),)


class QLinearMatMul(OpRun):
    op_domain = ""

    def _run(
        self, a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array, y_scale: Array,
        y_zero: Array,
    ) -> tuple[Array]:  # fmt: skip
        sums = integer_product(a, b, a_zero, b_zero)
        scale = along(a_scale, sums.shape, -2) * along(b_scale, sums.shape, -1)
        return (quantise(sums * scale, y_scale, y_zero, -2),)


def _axis(options: dict[str, Any]) -> int:
    axis = options.get("axis")
    return 1 if axis is None else int(axis)


OPS = (QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, ConvInteger, QLinearConv, QLinearMatMul)
