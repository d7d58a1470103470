"""Float operators that onnx's reference computes in float32, slowly, or only from some opset on."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as StockResize
from onnx.reference.ops.op_roi_align import RoiAlign as StockRoiAlign
from scipy import special

from autotune.parity.ops_window import Array, run_stock


class Erf(OpRun):
    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.asarray(special.erf(x)),)


class Gelu(OpRun):
    op_domain = ""

    def _run(self, x: Array, approximate: str | None = None, **_: Any) -> tuple[Array]:
        return (gelu_tanh(x) if approximate == "tanh" else gelu(x),)


class LayerNormalization(OpRun):
    """ONNX Runtime takes it at any opset, the standard has it since 17."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, bias: Array | None = None, **options: Any) -> tuple[Array, ...]:
        axis = options.get("axis")
        axes = tuple(range((-1 if axis is None else axis) % x.ndim, x.ndim))
        return normalised(x, scale, bias, axes, options.get("epsilon"))


class SimplifiedLayerNormalization(OpRun):
    """ONNX Runtime's name for RMSNormalization, in the standard domain."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, **options: Any) -> tuple[Array, ...]:
        axis = options.get("axis")
        axes = tuple(range((-1 if axis is None else axis) % x.ndim, x.ndim))
        return normalised_by_size(x, scale, axes, options.get("epsilon"))


class Resize(OpRun):
    """Nearest and linear, axis by axis; the rest is left to onnx's reference."""

    op_domain = ""

    def _run(self, x: Array, *inputs: Array | None, **options: Any) -> tuple[Array]:
        given = [*inputs, None, None, None]
        old = _opset(self) < 11  # then the inputs are (x, scales)
        scales, sizes = (given[0], None) if old else (given[1], given[2])
        transform = "asymmetric" if old else options.get("coordinate_transformation_mode") or "half_pixel"
        rounding = "simple" if old else options.get("nearest_mode") or "round_prefer_floor"
        mode = options.get("mode") or "nearest"
        plain = not (options.get("antialias") or options.get("exclude_outside") or options.get("axes"))
        policy = options.get("keep_aspect_ratio_policy") or "stretch"
        cropped = transform == "tf_crop_and_resize"
        if mode not in ("nearest", "linear") or not plain or policy != "stretch" or cropped:
            stock: tuple[Array] = run_stock(StockResize, self, x, *inputs)
            return stock
        if sizes is not None and sizes.size:
            targets = [(int(out), int(out) / size) for out, size in zip(sizes, x.shape, strict=True)]
        else:
            factors = np.asarray(scales, np.float64)
            targets = [(int(np.floor(size * f)), float(f)) for f, size in zip(factors, x.shape, strict=True)]
        return (_resized(x, targets, transform, mode, rounding),)


class Upsample(OpRun):
    """The Resize of before opset 10."""

    op_domain = ""

    def _run(self, x: Array, scales: Array | None = None, **options: Any) -> tuple[Array]:
        factors = np.asarray(options["scales"] if scales is None else scales, np.float64)
        targets = [(int(np.floor(size * f)), float(f)) for f, size in zip(factors, x.shape, strict=True)]
        return (_resized(x, targets, "asymmetric", options.get("mode") or "nearest", "simple"),)


class _OverLast(OpRun):
    """Softmax and its relatives: before opset 13 over everything from `axis` on, then over `axis` alone."""

    op_domain = ""

    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        # Not from the options: those have the default of the newest opset.
        given = [attribute.i for attribute in self.onnx_node.attribute if attribute.name == "axis"]
        if _opset(self) >= 13:
            return (self.along(x, given[0] if given else -1),)
        axis = given[0] if given else 1
        axis += x.ndim if axis < 0 else 0
        rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
        return (self.along(rows, 1).reshape(x.shape),)

    def along(self, x: Array, axis: int) -> Array:
        raise NotImplementedError(f"{type(self).__name__} along an axis")


class Softmax(_OverLast):
    def along(self, x: Array, axis: int) -> Array:
        return np.asarray(special.softmax(x, axis))


class LogSoftmax(_OverLast):
    def along(self, x: Array, axis: int) -> Array:
        return np.asarray(special.log_softmax(x, axis))


class Hardmax(_OverLast):
    def along(self, x: Array, axis: int) -> Array:
        result = np.zeros_like(x)
        np.put_along_axis(result, np.expand_dims(x.argmax(axis), axis), 1.0, axis)
        return result


class BatchNormalization(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **options: Any
    ) -> tuple[Array, ...]:
        if options.get("training_mode"):
            raise NotImplementedError("training_mode")
        shape = (-1, *[1] * (x.ndim - 2))
        epsilon = options.get("epsilon")
        factor = scale / np.sqrt(variance + (1e-5 if epsilon is None else epsilon))
        return ((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape),)


class RoiAlign(OpRun):
    op_domain = ""

    def _run(self, *inputs: Array, **_: Any) -> tuple[Array]:
        if _opset(self) < 16:  # onnx's reference takes the half-pixel shift that came with opset 16 for all
            raise NotImplementedError("before opset 16")
        stock: tuple[Array] = run_stock(StockRoiAlign, self, *inputs)
        return stock


def _opset(op: OpRun) -> int:
    return int(op.run_params["opsets"].get("", 1))


def _resized(x: Array, targets: list[tuple[int, float]], transform: str, mode: str, rounding: str) -> Array:
    """`targets`: for each axis the size of the output and the scale."""
    for axis, (out, scale) in enumerate(targets):
        if out == x.shape[axis] and scale == 1.0:
            continue
        at = _places(out, x.shape[axis], scale, transform)
        way = ("floor" if scale >= 1 else "ceil") if rounding == "simple" else rounding
        x = _nearest(x, axis, at, way) if mode == "nearest" else _linear(x, axis, at)
    return x


def _places(out: int, size: int, scale: float, transform: str) -> Array:
    """Where each place of the output lies on the input."""
    at = np.arange(out, dtype=np.float64)
    if transform == "asymmetric":
        return at / scale
    if transform == "align_corners":
        return at * (size - 1) / (out - 1) if out > 1 else at * 0
    if transform == "pytorch_half_pixel" and out == 1:
        return at * 0 - 0.5
    if transform == "half_pixel_symmetric":
        adjusted = out / (size * scale)
        return size / 2 * (1 - adjusted) + (at + 0.5) / scale - 0.5
    return (at + 0.5) / scale - 0.5


def _nearest(x: Array, axis: int, at: Array, rounding: str) -> Array:
    ways = {
        "round_prefer_floor": lambda: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda: np.floor(at + 0.5),
        "floor": lambda: np.floor(at),
        "ceil": lambda: np.ceil(at),
    }
    index = np.clip(ways[rounding](), 0, x.shape[axis] - 1).astype(np.int64)
    return np.take(x, index, axis)


def _linear(x: Array, axis: int, at: Array) -> Array:
    at = np.clip(at, 0, x.shape[axis] - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return np.asarray(np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share)


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + special.erf(x / np.sqrt(2.0))))


def gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def normalised(
    x: Array, scale: Array, bias: Array | None, axes: tuple[int, ...], epsilon: float | None
) -> tuple[Array, Array, Array]:
    """(result, mean, 1 / standard deviation) of a layer normalisation over `axes`."""
    mean = x.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + (1e-5 if epsilon is None else epsilon))
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), mean, inverse


def normalised_by_size(x: Array, scale: Array, axes: tuple[int, ...], epsilon: float | None) -> tuple[Array, Array]:
    """(result, 1 / root mean square)."""
    inverse = 1 / np.sqrt((x**2).mean(axis=axes, keepdims=True) + (1e-5 if epsilon is None else epsilon))
    return x * inverse * scale, inverse


OPS = (
    Erf,
    Gelu,
    LayerNormalization,
    SimplifiedLayerNormalization,
    Resize,
    Upsample,
    Softmax,
    LogSoftmax,
    Hardmax,
    BatchNormalization,
    RoiAlign,
)
