"""Operators that reduce, rank or accumulate along axes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported, numbers

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(function: _Reduction) -> Builder:
    """Axes are an attribute or an input; none at all means all axes, or nothing where `noop_with_empty_axes` is set."""

    def build(node: Node) -> Operator:
        keep, fixed = bool(node.get("keepdims", 1)), node.get("axes")
        nothing = bool(node.get("noop_with_empty_axes", 0))

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            over = numbers(axes) or fixed
            if not over and nothing:
                return x
            return function(x, over or list(range(x.dim())), keep)

        return run

    return build


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def _extreme(find: Callable[..., Tensor]) -> Builder:
    def build(node: Node) -> Operator:
        axis, keep, last = node.get("axis", 0), bool(node.get("keepdims", 1)), node.get("select_last_index", 0)

        def run(x: Tensor) -> Tensor:
            if not last:
                return find(x, dim=axis, keepdim=keep)
            return torch.rsub(find(x.flip(axis), dim=axis, keepdim=keep), x.shape[axis] - 1)

        return run

    return build


def _top(node: Node) -> Operator:
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))

    def run(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, ...]:
        count = int(k) if k is not None else node.get("k")
        # A stable sort puts the lower index first where numbers are equal, as ONNX wants it.
        values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)

    return run


def _cumulative(node: Node) -> Operator:
    exclusive, backwards = node.get("exclusive", 0), node.get("reverse", 0)

    def run(x: Tensor, axis: Tensor) -> Tensor:
        along = int(axis)
        x = x.flip(along) if backwards else x
        total = x.cumsum(along).to(x.dtype)
        total = total - x if exclusive else total
        return total.flip(along) if backwards else total

    return run


def _global(function: _Reduction) -> Builder:
    def build(node: Node) -> Operator:
        return lambda x: function(x, list(range(2, x.dim())), True)

    return build


def _global_norm(node: Node) -> Operator:
    p = node.get("p", 2)
    return lambda x: torch.linalg.vector_norm(x, p, dim=list(range(2, x.dim())), keepdim=True)


def _lp_normalise(node: Node) -> Operator:
    axis, p = node.get("axis", -1), node.get("p", 2)
    if p not in (1, 2):
        raise Unsupported(f"p={p}")
    return lambda x: x / torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(dim=axes, keepdim=keep).to(x.dtype)


def _average(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.mean(dim=axes, keepdim=keep)


def _largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.amax(dim=axes, keepdim=keep)


OPERATORS: dict[str, Builder] = {
    "ReduceSum": _reduce(_sum),
    "ReduceMean": _reduce(_average),
    "ReduceMax": _reduce(_largest),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(dim=axes, keepdim=keep)),
    "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(dim=axes, keepdim=keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, dim=axes, keepdim=keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(dim=axes, keepdim=keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: x.sum(dim=axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: torch.logsumexp(x, dim=axes, keepdim=keep)),
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "TopK": _top,
    "CumSum": _cumulative,
    "GlobalAveragePool": _global(_average),
    "GlobalMaxPool": _global(_largest),
    "GlobalLpPool": _global_norm,
    "LpNormalization": _lp_normalise,
}
