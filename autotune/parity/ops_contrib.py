"""Operators of ONNX Runtime's own domain: those that dialect `ort-cpu` writes, and those that its tools leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from scipy import special

from autotune.parity.ops_float import gelu, gelu_tanh, normalised, normalised_by_size
from autotune.parity.ops_quantised import (
    DequantizeLinear,
    QuantizeLinear,
    dequantise,
    dynamic,
    integer_product,
    quantise,
)
from autotune.parity.ops_window import Array, convolve

_MS = "com.microsoft"


class _Contrib(OpRun):
    op_domain = _MS


# -- what our dialect writes


class DynamicQuantizeMatMul(_Contrib):
    def _run(
        self, a: Array, b: Array, b_scale: Array, b_zero: Array | None = None, bias: Array | None = None, **_: Any
    ) -> tuple[Array]:
        levels, scale, zero = dynamic(a)
        y = integer_product(levels, b, zero, b_zero) * (scale * b_scale)
        return (y if bias is None else y + bias,)


class MatMulIntegerToFloat(_Contrib):
    def _run(
        self, a: Array, b: Array, a_scale: Array, b_scale: Array, a_zero: Array | None = None,
        b_zero: Array | None = None, bias: Array | None = None, **_: Any,
    ) -> tuple[Array]:  # fmt: skip
        y = integer_product(a, b, a_zero, b_zero) * (a_scale * b_scale)
        return (y if bias is None else y + bias,)


class MatMulNBits(_Contrib):
    """The product with the weight's exact values; what `accuracy_level` permits beyond that is the runtime's doing."""

    def _run(
        self, a: Array, packed: Array, scales: Array, zeros: Array | None = None, groups: Array | None = None,
        bias: Array | None = None, **options: Any,
    ) -> tuple[Array]:  # fmt: skip
        if groups is not None and groups.size:
            raise NotImplementedError("MatMulNBits with g_idx")
        bits, block = int(options["bits"]), int(options["block_size"])
        n, k = int(options["N"]), int(options["K"])
        blocks = -(-k // block)
        levels = _unpacked(packed.reshape(n * blocks, -1), bits).reshape(n, blocks, block)
        middle: Array | float = float(1 << (bits - 1))
        if zeros is not None and zeros.size:
            plain = zeros.dtype.kind == "f"
            middle = (zeros if plain else _unpacked(zeros.reshape(n, -1), bits)[:, :blocks]).reshape(n, blocks, 1)
        weight = ((levels - middle) * scales.reshape(n, blocks, 1)).reshape(n, -1)[:, :k]
        y = np.matmul(a, weight.T)
        return (y if bias is None else y + bias,)


class GatherBlockQuantized(_Contrib):
    def _run(
        self, data: Array, indices: Array, scales: Array, zeros: Array | None = None, **options: Any
    ) -> tuple[Array]:
        bits, block = int(options.get("bits") or 4), int(options.get("block_size") or 128)
        axis = int(options.get("gather_axis") or 0)
        along = options.get("quantize_axis")
        last = (1 if along is None else int(along)) % data.ndim
        packed = data.dtype == np.uint8
        if packed and last != data.ndim - 1:
            raise NotImplementedError("GatherBlockQuantized packed along another axis than the last")
        levels = _unpacked(data, bits) if packed else data.astype(np.float64)
        middle: Array | float = float(1 << (bits - 1)) if packed else 0.0
        if zeros is not None and zeros.size:
            whole = _unpacked(zeros, bits)[..., : scales.shape[-1]] if packed else zeros.astype(np.float64)
            middle = _spread(whole, block, last, levels.shape)
        table = (levels - middle) * _spread(scales, block, last, levels.shape)
        return (np.take(table, indices, axis),)


def _unpacked(codes: Array, bits: int) -> Array:
    """Levels of packed bytes along the last axis, the lowest bits first, as float64."""
    if bits == 8:
        return codes.astype(np.float64)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = (codes[..., None] >> shifts) & ((1 << bits) - 1)
    return levels.reshape(*codes.shape[:-1], -1).astype(np.float64)


def _spread(values: Array, block: int, axis: int, shape: tuple[int, ...]) -> Array:
    """One value per block as one per element."""
    cut = [slice(None)] * values.ndim
    cut[axis] = slice(shape[axis])
    return np.repeat(values, block, axis)[tuple(cut)]


# -- float operators that ONNX Runtime's optimisers write into files


def _activation(name: str, x: Array, options: dict[str, Any]) -> Array:
    given = [float(v) for v in options.get("activation_params") or []]
    known: dict[str, Callable[[], Array]] = {
        "": lambda: x,
        "Relu": lambda: np.maximum(x, 0),
        "Sigmoid": lambda: special.expit(x),
        "Tanh": lambda: np.tanh(x),
        "LeakyRelu": lambda: np.where(x < 0, x * (given[0] if given else 0.01), x),
        "Clip": lambda: np.clip(x, given[0], given[1]),
        "HardSigmoid": lambda: np.clip(x * given[0] + given[1], 0, 1),
    }
    if name not in known:
        raise NotImplementedError(f"activation {name}")
    return np.asarray(known[name]())


class FusedConv(_Contrib):
    def _run(self, x: Array, w: Array, b: Array | None = None, z: Array | None = None, **options: Any) -> tuple[Array]:
        y = convolve(x, w, **options)
        if b is not None:
            y = y + b.reshape(-1, *[1] * (x.ndim - 2))
        return (_activation(options.get("activation") or "", y if z is None else y + z, options),)


class FusedMatMul(_Contrib):
    def _run(self, a: Array, b: Array, **options: Any) -> tuple[Array]:
        if options.get("transBatchA") or options.get("transBatchB"):
            raise NotImplementedError("FusedMatMul with transBatch")
        a = a.swapaxes(-1, -2) if options.get("transA") else a
        b = b.swapaxes(-1, -2) if options.get("transB") else b
        alpha = options.get("alpha")
        return (np.matmul(a, b) * (1.0 if alpha is None else alpha),)


class Gelu(_Contrib):
    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        return (gelu(x),)


class BiasGelu(_Contrib):
    def _run(self, x: Array, bias: Array, **_: Any) -> tuple[Array]:
        return (gelu(x + bias),)


class FastGelu(_Contrib):
    def _run(self, x: Array, bias: Array | None = None, **_: Any) -> tuple[Array]:
        return (gelu_tanh(x if bias is None else x + bias),)


class QuickGelu(_Contrib):
    def _run(self, x: Array, **options: Any) -> tuple[Array]:
        alpha = options.get("alpha")
        return (x * special.expit((1.702 if alpha is None else alpha) * x),)


class SkipLayerNormalization(_Contrib):
    def _run(
        self, x: Array, skip: Array, gamma: Array, beta: Array | None = None, bias: Array | None = None, **options: Any
    ) -> tuple[Array, ...]:
        total = x + skip if bias is None else x + skip + bias
        epsilon = options.get("epsilon")
        y, mean, inverse = normalised(total, gamma, beta, (-1,), 1e-12 if epsilon is None else epsilon)
        return y, mean, inverse, total


class SkipSimplifiedLayerNormalization(_Contrib):
    def _run(self, x: Array, skip: Array, gamma: Array, bias: Array | None = None, **options: Any) -> tuple[Array, ...]:
        total = x + skip if bias is None else x + skip + bias
        y, inverse = normalised_by_size(total, gamma, (-1,), options.get("epsilon"))
        return y, np.zeros_like(inverse), inverse, total


# -- operators of the QOperator format that the standard does not have


class QLinearAdd(_Contrib):
    def _run(
        self, a: Array, a_scale: Array, a_zero: Array | None, b: Array, b_scale: Array, b_zero: Array | None,
        y_scale: Array, y_zero: Array | None = None, **_: Any,
    ) -> tuple[Array]:  # fmt: skip
        y = dequantise(a, a_scale, a_zero) + dequantise(b, b_scale, b_zero)
        return (quantise(y, y_scale, y_zero, kind=a.dtype),)


class QLinearMul(_Contrib):
    def _run(
        self, a: Array, a_scale: Array, a_zero: Array | None, b: Array, b_scale: Array, b_zero: Array | None,
        y_scale: Array, y_zero: Array | None = None, **_: Any,
    ) -> tuple[Array]:  # fmt: skip
        y = dequantise(a, a_scale, a_zero) * dequantise(b, b_scale, b_zero)
        return (quantise(y, y_scale, y_zero, kind=a.dtype),)


class QLinearSigmoid(_Contrib):
    def _run(
        self, x: Array, x_scale: Array, x_zero: Array | None, y_scale: Array, y_zero: Array | None = None, **_: Any
    ) -> tuple[Array]:
        return (quantise(special.expit(dequantise(x, x_scale, x_zero)), y_scale, y_zero, kind=x.dtype),)


class QLinearGlobalAveragePool(_Contrib):
    def _run(
        self, x: Array, x_scale: Array, x_zero: Array, y_scale: Array, y_zero: Array, **options: Any
    ) -> tuple[Array]:
        axes = tuple(range(1, x.ndim - 1)) if options.get("channels_last") else tuple(range(2, x.ndim))
        real = dequantise(x, x_scale, x_zero).mean(axis=axes, keepdims=True)
        return (quantise(real, y_scale, y_zero),)


class QLinearConcat(_Contrib):
    def _run(self, y_scale: Array, y_zero: Array, *parts: Array, **options: Any) -> tuple[Array]:
        real = [dequantise(x, scale, zero) for x, scale, zero in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]
        return (quantise(np.concatenate(real, int(options["axis"])), y_scale, y_zero),)


class QGemm(_Contrib):
    def _run(
        self, a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array,
        c: Array | None = None, y_scale: Array | None = None, y_zero: Array | None = None, **options: Any,
    ) -> tuple[Array]:  # fmt: skip
        a, b = (a.T if options.get("transA") else a), (b.T if options.get("transB") else b)
        sums = integer_product(a, b, a_zero, b_zero)
        alpha = options.get("alpha")
        if c is not None:
            sums = sums + c
        real = sums * (a_scale * b_scale) * (1.0 if alpha is None else alpha)
        return (real if y_scale is None else quantise(real, y_scale, y_zero),)


OPS = (
    DynamicQuantizeMatMul,
    MatMulIntegerToFloat,
    MatMulNBits,
    GatherBlockQuantized,
    FusedConv,
    FusedMatMul,
    Gelu,
    BiasGelu,
    FastGelu,
    QuickGelu,
    SkipLayerNormalization,
    SkipSimplifiedLayerNormalization,
    QLinearAdd,
    QLinearMul,
    QLinearSigmoid,
    QLinearGlobalAveragePool,
    QLinearConcat,
    QGemm,
    *(type(op.__name__, (op,), {"op_domain": _MS}) for op in (QuantizeLinear, DequantizeLinear)),
)
