"""Operators that pick and place numbers by index."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported, simple

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def _gather(node: Node) -> Operator:
    axis = node.get("axis", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        at = axis % x.dim()
        flat = x.index_select(at, _positive(indices.reshape(-1), x.shape[at]))
        return flat.reshape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])

    return run


def _gather_elements(node: Node) -> Operator:
    axis = node.get("axis", 0)
    return lambda x, indices: torch.gather(x, axis, _positive(indices, x.shape[axis]))


def _gather_nd(node: Node) -> Operator:
    shared = node.get("batch_dims", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        picks: list[Tensor] = []
        for axis in range(shared):
            shape = [1] * (indices.dim() - 1)
            shape[axis] = -1
            picks.append(torch.arange(x.shape[axis]).reshape(shape))
        picks += [_positive(indices[..., i], x.shape[shared + i]) for i in range(depth)]
        return x[tuple(picks)]

    return run


def _scatter_elements(node: Node) -> Operator:
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _positive(indices, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])

    return run


def _scatter_nd(node: Node) -> Operator:
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise Unsupported(f"reduction {reduction!r}")

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        picks = tuple(_positive(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
        return x.index_put(picks, updates, accumulate=reduction == "add")

    return run


def _one_hot(node: Node) -> Operator:
    axis = node.get("axis", -1)

    def run(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth)
        at = axis % (indices.dim() + 1)
        there = _positive(indices, count).unsqueeze(at)
        shape = [1] * (indices.dim() + 1)
        shape[at] = count
        return torch.where(there == torch.arange(count).reshape(shape), values[1], values[0])

    return run


def _compress(node: Node) -> Operator:
    axis = node.get("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        places = condition.nonzero().reshape(-1)
        return x.reshape(-1).index_select(0, places) if axis is None else x.index_select(axis, places)

    return run


def _nonzero(x: Tensor) -> Tensor:
    return x.nonzero().T


def _grid_sample(node: Node) -> Operator:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode", "linear"), node.get("mode", "linear"))
    around, corners = node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode=mode, padding_mode=around, align_corners=corners)


def _reverse_sequence(node: Node) -> Operator:
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise Unsupported(f"time axis {time} and batch axis {batch}")

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        moved = x.transpose(0, 1) if time == 0 else x  # [batch, time, ...]
        steps = torch.arange(moved.shape[1]).expand(moved.shape[:2])
        ends = lengths.reshape(-1, 1)
        places = torch.where(steps < ends, ends - 1 - steps, steps)
        turned = moved[torch.arange(moved.shape[0]).reshape(-1, 1), places]
        return turned.transpose(0, 1) if time == 0 else turned

    return run


OPERATORS: dict[str, Builder] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "OneHot": _one_hot,
    "Compress": _compress,
    "NonZero": simple(_nonzero),
    "GridSample": _grid_sample,
    "ReverseSequence": _reverse_sequence,
}
