"""Operators that move numbers without changing them: shapes, cuts, joins, pads."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported, dtype_of, numbers, simple


def _reshape(node: Node) -> Operator:
    literal, fixed = bool(node.get("allowzero", 0)), node.get("shape")

    def run(x: Tensor, shape: Tensor | None = None) -> Tensor:
        wanted = numbers(shape) if shape is not None else list(fixed)
        assert wanted is not None
        if not literal:
            wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
        return x.reshape(wanted)

    return run


def _transpose(node: Node) -> Operator:
    order = node.get("perm")
    return lambda x: x.permute(order or list(reversed(range(x.dim()))))


def _squeeze(node: Node) -> Operator:
    fixed = node.get("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = numbers(axes) or fixed
        return x.squeeze(tuple(over)) if over else x.squeeze()

    return run


def _unsqueeze(node: Node) -> Operator:
    fixed = node.get("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = numbers(axes) or fixed
        rank = x.dim() + len(over)
        for axis in sorted(axis % rank for axis in over):
            x = x.unsqueeze(axis)
        return x

    return run


def _flatten(node: Node) -> Operator:
    axis = node.get("axis", 1)

    def run(x: Tensor) -> Tensor:
        at = axis % x.dim() if axis != x.dim() else axis
        return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))

    return run


def _concat(node: Node) -> Operator:
    return lambda *tensors: torch.cat(tensors, dim=node.get("axis"))


def _split(node: Node) -> Operator:
    axis, fixed = node.get("axis", 0), node.get("split")
    count = node.get("num_outputs", len(node.outputs))

    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        parts = numbers(sizes) or fixed
        if not parts:
            each, whole = -(-x.shape[axis] // count), x.shape[axis]
            parts = [max(0, min(each, whole - i * each)) for i in range(count)]
        pieces: tuple[Tensor, ...] = torch.split(x, parts, dim=axis)
        return pieces

    return run


def _slice(node: Node) -> Operator:
    before_opset_10 = node.get("starts"), node.get("ends"), node.get("axes")

    def run(
        x: Tensor,
        starts: Tensor | None = None,
        ends: Tensor | None = None,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        begin, end, over = before_opset_10
        begin, end = numbers(starts) or begin, numbers(ends) or end
        over = numbers(axes) or over or list(range(len(begin)))
        by = numbers(steps) or [1] * len(begin)
        for first, last, axis, step in zip(begin, end, over, by, strict=True):
            x = _sliced(x, first, last, axis, step)
        return x

    return run


def _sliced(x: Tensor, first: int, last: int, axis: int, step: int) -> Tensor:
    places = (
        range(*slice(first, last, step).indices(x.shape[axis])) if step > 0 else _backwards(x, first, last, axis, step)
    )
    if step == 1:
        return x if len(places) == x.shape[axis] else x.narrow(axis, places.start if len(places) else 0, len(places))
    return x.index_select(axis, torch.tensor(places, dtype=torch.int64))


def _backwards(x: Tensor, first: int, last: int, axis: int, step: int) -> range:
    """ONNX: both ends count from the back when negative and are then clamped; an end below the start means all."""
    size = x.shape[axis]
    first = min(max(first + size if first < 0 else first, 0), size - 1)
    last = min(max(last + size if last < 0 else last, -1), size - 1)
    return range(first, last, step)


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    wanted = numbers(shape) or []
    missing = [1] * (x.dim() - len(wanted))  # either may be the longer one, and either may hold the 1
    have = [1] * (len(wanted) - x.dim()) + list(x.shape)
    return x.expand([a if b == 1 else b for a, b in zip(have, [*missing, *wanted], strict=True)])


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(numbers(repeats) or [])


def _pad(node: Node) -> Operator:
    mode, fixed, filling = node.get("mode", "constant"), node.get("pads"), node.get("value", 0.0)

    def run(x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        widths = numbers(pads) or fixed
        over = numbers(axes) or list(range(x.dim()))
        fill = filling if value is None else value.item()
        half = len(widths) // 2
        for axis, before, after in zip(over, widths[:half], widths[half:], strict=True):
            x = _padded(x, axis % x.dim(), before, after, mode, fill)
        return x

    return run


def _padded(x: Tensor, axis: int, before: int, after: int, mode: str, fill: float) -> Tensor:
    if before == after == 0:
        return x
    if mode == "constant" or before < 0 or after < 0:
        if mode != "constant" and (before > 0 or after > 0):
            raise Unsupported("negative and positive pads together")
        return F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [before, after], value=fill)
    size = x.shape[axis]
    kind = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
    places = np.pad(np.arange(size), (before, after), mode=kind)  # type: ignore[call-overload]
    return x.index_select(axis, torch.from_numpy(places))


def _depth_to_space(node: Node) -> Operator:
    size, columns_first = node.get("blocksize"), node.get("mode", "DCR") == "DCR"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if columns_first:
            x = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            x = x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(n, c // size**2, h * size, w * size)

    return run


def _space_to_depth(node: Node) -> Operator:
    size = node.get("blocksize")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * size**2, h // size, w // size)

    return run


def _shape(node: Node) -> Operator:
    start, end = node.get("start", 0), node.get("end")
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _constant(node: Node) -> Operator:
    for name, value in node.attributes.items():
        if name == "value":
            made = torch.from_numpy(numpy_helper.to_array(value).copy())
        elif name in ("value_int", "value_ints"):
            made = torch.tensor(value, dtype=torch.int64)
        elif name in ("value_float", "value_floats"):
            made = torch.tensor(value, dtype=torch.float32)
        else:
            raise Unsupported(name)
        return lambda made=made: made
    raise Unsupported("no value")


def _constant_of_shape(node: Node) -> Operator:
    value = node.get("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value).reshape(-1).copy())
    return lambda shape: torch.full(numbers(shape) or [], fill.item(), dtype=fill.dtype)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _eye_like(node: Node) -> Operator:
    kind, k = node.get("dtype"), node.get("k", 0)
    dtype = None if kind is None else dtype_of(kind)

    def run(x: Tensor) -> Tensor:
        rows, columns = x.shape
        return torch.ones(rows, columns, dtype=dtype or x.dtype).triu(k).tril(k)

    return run


def _triangle(node: Node) -> Operator:
    upper = node.get("upper", 1)

    def run(x: Tensor, k: Tensor | None = None) -> Tensor:
        diagonal = 0 if k is None else int(k)
        return x.triu(diagonal) if upper else x.tril(diagonal)

    return run


def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


OPERATORS: dict[str, Builder] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": simple(_expand),
    "Tile": simple(_tile),
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Shape": _shape,
    "Size": simple(_size),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": simple(_range),
    "EyeLike": _eye_like,
    "Trilu": _triangle,
}
