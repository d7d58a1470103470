"""Convolution and pooling in float64: one numpy operation per position of the window.

onnx's own reference loops over the elements of the output, which takes minutes where this takes a second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool as StockMaxPool

Array = np.ndarray[Any, Any]


def convolve(x: Array, w: Array, **options: Any) -> Array:
    """x [n, c, ...], w [o, c / group, ...] -> [n, o, ...]; options are Conv's attributes, None where missing."""
    group = options.get("group") or 1
    kernel = w.shape[2:]
    window = Window.of(x.shape[2:], kernel, options)
    padded = window.pad(x, 0)
    n, o = x.shape[0], w.shape[0]
    weights = w.reshape(group, o // group, *w.shape[1:])
    total = np.zeros((n, group, o // group, math.prod(window.out)), x.dtype)
    for position, part in window.parts(padded):
        columns = part.reshape(n, group, -1, total.shape[-1])  # [n, g, c/g, places]
        one = weights[at(position)]  # [g, o/g, c/g]
        total += one * columns if one.shape[-1] == 1 else np.matmul(one, columns)
    return total.reshape(n, o, *window.out)


def run_stock(kind: Any, op: OpRun, *inputs: Array | None) -> Any:
    """What onnx's own reference says; it has no types."""
    return kind(op.onnx_node, op.run_params).run(*inputs)


def at(position: tuple[int, ...]) -> tuple[Any, ...]:
    """Index of one position of the window in weights whose last axes are the window."""
    return (..., *position)


class Window:
    """Where a window of some size lies on the spatial axes of an input."""

    def __init__(
        self, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
        before: Sequence[int], after: Sequence[int], out: Sequence[int],
    ) -> None:  # fmt: skip
        self.kernel, self.strides, self.dilations = kernel, strides, dilations
        self.before, self.after, self.out = before, after, tuple(out)

    @classmethod
    def of(cls, size: Sequence[int], kernel: Sequence[int], options: dict[str, Any]) -> Window:
        """From an input's spatial shape and the attributes of Conv, MaxPool or AveragePool."""
        rank = len(size)
        strides = options.get("strides") or [1] * rank
        dilations = options.get("dilations") or [1] * rank
        pads = options.get("pads") or [0] * (2 * rank)
        auto = options.get("auto_pad") or "NOTSET"
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        before, after = list(pads[:rank]), list(pads[rank:])
        if auto == "VALID":
            before, after = [0] * rank, [0] * rank
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            for i in range(rank):
                missing = max(0, (math.ceil(size[i] / strides[i]) - 1) * strides[i] + spans[i] - size[i])
                before[i] = missing // 2 if auto == "SAME_UPPER" else missing - missing // 2
                after[i] = missing - before[i]
        out = []
        for i in range(rank):
            room = size[i] + before[i] + after[i] - spans[i]
            count = (-(-room // strides[i]) if options.get("ceil_mode") else room // strides[i]) + 1
            if options.get("ceil_mode") and (count - 1) * strides[i] >= size[i] + before[i]:
                count -= 1  # a window may not begin in the padding behind the input
            out.append(count)
        return cls(kernel, strides, dilations, before, after, out)

    def pad(self, x: Array, value: float, *, beyond: float | None = None) -> Array:
        """Padded with `value`, and with `beyond` where rounding up lets a window reach over the padding."""
        sides = list(zip(self.before, self.after, strict=True))
        padded = np.pad(x, [(0, 0), (0, 0), *sides], constant_values=value)
        extra = []
        for i, size in enumerate(padded.shape[2:]):
            reach = (self.out[i] - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilations[i] + 1
            extra.append((0, max(0, reach - size)))
        if not any(after for _, after in extra):
            return padded
        return np.pad(padded, [(0, 0), (0, 0), *extra], constant_values=value if beyond is None else beyond)

    def parts(self, padded: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """For each position of the window: what lies there for every place of the output, [n, c, *out]."""
        for position in itertools.product(*map(range, self.kernel)):
            cut = [
                slice(p * d, p * d + (count - 1) * s + 1, s)
                for p, d, s, count in zip(position, self.dilations, self.strides, self.out, strict=True)
            ]
            yield position, padded[(slice(None), slice(None), *cut)]


class Conv(OpRun):
    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **options: Any) -> tuple[Array]:
        y = convolve(x, w, **options)
        return (y if b is None else y + b.reshape(-1, *[1] * (x.ndim - 2)),)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **options: Any) -> tuple[Array]:
        rank, kernel = x.ndim - 2, w.shape[2:]
        group = options.get("group") or 1
        strides = options.get("strides") or [1] * rank
        dilations = options.get("dilations") or [1] * rank
        more = options.get("output_padding") or [0] * rank
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        full = [(x.shape[2 + i] - 1) * strides[i] + spans[i] + more[i] for i in range(rank)]
        before, after = self._pads(x, full, strides, options)
        n, o = x.shape[0], w.shape[1] * group
        total = np.zeros((n, group, w.shape[1], *full), x.dtype)
        columns = x.reshape(n, group, x.shape[1] // group, -1)
        weights = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        for position in itertools.product(*map(range, kernel)):
            one = weights[at(position)].swapaxes(1, 2)  # [g, o/g, c/g]
            part = np.matmul(one, columns).reshape(n, group, w.shape[1], *x.shape[2:])
            cut = [
                slice(p * d, p * d + (size - 1) * s + 1, s)
                for p, d, s, size in zip(position, dilations, strides, x.shape[2:], strict=True)
            ]
            total[(slice(None), slice(None), slice(None), *cut)] += part
        kept = [slice(b_, size - a) for b_, a, size in zip(before, after, full, strict=True)]
        y = total.reshape(n, o, *full)[(slice(None), slice(None), *kept)]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)

    @staticmethod
    def _pads(
        x: Array, full: Sequence[int], strides: Sequence[int], options: dict[str, Any]
    ) -> tuple[list[int], list[int]]:
        rank = len(full)
        auto = options.get("auto_pad") or "NOTSET"
        shape = options.get("output_shape")
        if not shape and auto in ("SAME_UPPER", "SAME_LOWER"):
            shape = [x.shape[2 + i] * strides[i] for i in range(rank)]
        if not shape:
            pads = options.get("pads") or [0] * (2 * rank)
            return ([0] * rank, [0] * rank) if auto == "VALID" else (list(pads[:rank]), list(pads[rank:]))
        total = [full[i] - shape[-rank:][i] for i in range(rank)]
        small = [t // 2 for t in total]
        large = [t - s for t, s in zip(total, small, strict=True)]
        return (small, large) if auto == "SAME_UPPER" else (large, small)


class MaxPool(OpRun):
    op_domain = ""

    def _run(self, x: Array, **options: Any) -> tuple[Array, ...]:
        if len(self.output) > 1:  # the places of the maxima too: rare, and onnx's reference knows how
            stock: tuple[Array, ...] = run_stock(StockMaxPool, self, x)
            return stock
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        window = Window.of(x.shape[2:], options["kernel_shape"], options)
        parts = [part for _, part in window.parts(window.pad(x, lowest))]
        result = parts[0].copy()
        for part in parts[1:]:
            np.maximum(result, part, out=result)
        return (result,)


class AveragePool(OpRun):
    op_domain = ""

    def _run(self, x: Array, **options: Any) -> tuple[Array]:
        window = Window.of(x.shape[2:], options["kernel_shape"], options)
        ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
        counted = window.pad(ones, 1.0 if options.get("count_include_pad") else 0.0, beyond=0.0)
        total = sum(part for _, part in window.parts(window.pad(x, 0.0)))
        count = sum(part for _, part in window.parts(counted))
        return (np.asarray(total / count),)


OPS = (Conv, ConvTranspose, MaxPool, AveragePool)
