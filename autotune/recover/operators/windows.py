"""Operators that slide a window: convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class _Window:
    """Kernel, strides, dilations and pads of a node for `rank` axes of space."""

    def __init__(self, node: Node, kernel: Sequence[int]) -> None:
        rank = len(kernel)
        if rank not in _CONV:
            raise Unsupported(f"{rank} axes of space")
        self.kernel = list(kernel)
        self.strides: list[int] = node.get("strides") or [1] * rank
        self.dilations: list[int] = node.get("dilations") or [1] * rank
        self.auto: str = node.get("auto_pad", "NOTSET")
        self.ceil = bool(node.get("ceil_mode", 0)) and self.auto in ("NOTSET", "")
        pads = node.get("pads") or [0] * (2 * rank)
        self._begin, self._end = pads[:rank], pads[rank:]

    def reach(self, axis: int) -> int:
        """Numbers from the first to the last that one window covers."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def pads(self, space: Sequence[int]) -> tuple[list[int], list[int]]:
        """Zeros (before, after) on each axis, for an input of this size."""
        if self.auto == "VALID":
            return [0] * len(space), [0] * len(space)
        if not self.auto.startswith("SAME"):
            return self._begin, self._end
        before, after = [], []
        for axis, size in enumerate(space):
            stride = self.strides[axis]
            total = max(0, (-(-size // stride) - 1) * stride + self.reach(axis) - size)
            less, more = total // 2, total - total // 2
            before.append(less if self.auto == "SAME_UPPER" else more)
            after.append(more if self.auto == "SAME_UPPER" else less)
        return before, after

    def fill(self, space: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Pads before and after, and how much more the last window needs where the count of windows is rounded up."""
        before, after = self.pads(space)
        extra = []
        for axis, size in enumerate(space):
            stride, whole = self.strides[axis], size + before[axis] + after[axis]
            count = (whole - self.reach(axis)) // stride + 1
            if self.ceil and (whole - self.reach(axis)) % stride and count * stride < size + before[axis]:
                extra.append(count * stride + self.reach(axis) - whole)
            else:
                extra.append(0)
        return before, after, extra


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    if not any(before) and not any(after):
        return x
    both = [pad for axis in reversed(range(len(before))) for pad in (before[axis], after[axis])]
    return F.pad(x, both, value=value)


def _convolution(node: Node) -> Operator:
    group = node.get("group", 1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = _Window(node, weight.shape[2:])
        before, after = window.pads(x.shape[2:])
        if before != after:
            x, before = _padded(x, before, after), [0] * len(before)
        convolve = _CONV[weight.dim() - 2]
        result: Tensor = convolve(x, weight, bias, window.strides, before, window.dilations, group)
        return result

    return run


def _transposed(node: Node) -> Operator:
    group = node.get("group", 1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = _Window(node, weight.shape[2:])
        rank = weight.dim() - 2
        more = node.get("output_padding") or [0] * rank
        full = [
            (x.shape[2 + axis] - 1) * window.strides[axis] + window.reach(axis) + more[axis] for axis in range(rank)
        ]
        before, after = _cropped(node, window, x.shape[2:], full)
        transpose = _TRANSPOSED[rank]
        y: Tensor = transpose(x, weight, None, window.strides, 0, 0, group, window.dilations)
        # torch wants output_padding below the stride; zeros at the end are what it means.
        y = _padded(y, [0] * rank, more)
        for axis in range(rank):
            y = _crop(y, 2 + axis, before[axis], full[axis] - before[axis] - after[axis])
        return y if bias is None else y + bias.reshape(1, -1, *[1] * rank)

    return run


def _crop(y: Tensor, axis: int, start: int, length: int) -> Tensor:
    if start < 0 or start + length > y.shape[axis]:
        after = max(0, start + length - y.shape[axis])
        widths = [0, 0] * (y.dim() - 1 - axis) + [max(0, -start), after]
        y, start = F.pad(y, widths), max(0, start)
    return y if start == 0 and length == y.shape[axis] else y.narrow(axis, start, length)


def _cropped(
    node: Node, window: _Window, space: Sequence[int], full: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """What is cut off (before, after) of the full result on each axis."""
    shape = node.get("output_shape")
    if window.auto.startswith("SAME") and not shape:
        shape = [size * stride for size, stride in zip(space, window.strides, strict=True)]
    if not shape:
        return window.pads(space)
    total = [have - want for have, want in zip(full, shape[-len(full) :], strict=True)]
    before = [n // 2 if window.auto == "SAME_UPPER" else n - n // 2 for n in total]
    return before, [n - b for n, b in zip(total, before, strict=True)]


def _max_pool(node: Node) -> Operator:
    node.only_first_output()

    def run(x: Tensor) -> Tensor:
        window = _Window(node, node.get("kernel_shape"))
        before, after, extra = window.fill(x.shape[2:])
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x = _padded(x, before, [a + e for a, e in zip(after, extra, strict=True)], lowest)
        pool = _MAX[len(window.kernel)]
        result: Tensor = pool(x, window.kernel, window.strides, 0, window.dilations)
        return result

    return run


def _average_pool(node: Node) -> Operator:
    include = bool(node.get("count_include_pad", 0))

    def run(x: Tensor) -> Tensor:
        window = _Window(node, node.get("kernel_shape"))
        space = list(x.shape[2:])
        before, after, extra = window.fill(space)
        rank, ends = len(space), [a + e for a, e in zip(after, extra, strict=True)]
        total = _window_sums(_padded(x, before, ends), window)
        counted = torch.ones([1, 1, *space], dtype=x.dtype)
        if include:  # pads count, what was added to fill the last window does not
            counted = torch.ones([1, 1, *(space[i] + before[i] + after[i] for i in range(rank))], dtype=x.dtype)
            before, ends = [0] * rank, extra
        return total / _window_sums(_padded(counted, before, ends), window)

    return run


def _window_sums(x: Tensor, window: _Window) -> Tensor:
    rank, size = len(window.kernel), math.prod(window.kernel)
    if any(d != 1 for d in window.dilations):
        ones = torch.ones([x.shape[1], 1, *window.kernel], dtype=x.dtype)
        sums: Tensor = _CONV[rank](x, ones, None, window.strides, 0, window.dilations, x.shape[1])
        return sums
    if rank == 1:
        return F.avg_pool1d(x, window.kernel, window.strides) * size
    if rank == 2:
        return F.avg_pool2d(x, window.kernel, window.strides) * size
    return F.avg_pool3d(x, window.kernel, window.strides) * size


def _lp_pool(node: Node) -> Operator:
    p = node.get("p", 2)

    def run(x: Tensor) -> Tensor:
        window = _Window(node, node.get("kernel_shape"))
        before, after, extra = window.fill(x.shape[2:])
        powers = x.abs().pow(p)
        padded = _padded(powers, before, [a + e for a, e in zip(after, extra, strict=True)])
        return _window_sums(padded, window).pow(1 / p)

    return run


OPERATORS: dict[str, Builder] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
}
