"""What a cut changes in a node itself: group counts, sizes of a Split, bounds of a Slice, indices of a Gather."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from autotune.techniques.nodes import integer
from autotune.techniques.prune.graph import Graph, Port, slices


@dataclass(frozen=True)
class Adjustment:
    """New values of attributes (None: it goes) and of inputs (slot -> constant)."""

    attributes: Mapping[str, int | None] = field(default_factory=dict)
    inputs: Mapping[int, np.ndarray] = field(default_factory=dict)


def adjustment(graph: Graph, keep: Mapping[Port, np.ndarray], number: int) -> Adjustment:
    """Empty where the node stays as it is."""
    node = graph.nodes[number]
    if not node.input:
        return Adjustment()
    x, op = graph.inputs[number][0], node.op_type
    if op in ("Conv", "ConvTranspose") and integer(node, "group", 1) > 1 and (x, 1) in keep:
        group = integer(node, "group", 1)
        stays = keep[x, 1].reshape(group, -1)
        return Adjustment({"group": int(stays.any(axis=1).sum()) if are_whole(stays) else group})
    rank = len(graph.shape(x) or ())
    if op == "Split" and rank:
        return _split(graph, keep, number, integer(node, "axis", 0) % rank)
    if op == "Gather" and rank:
        return _gather(graph, keep, number, integer(node, "axis", 0) % rank)
    return _slice(graph, keep, number, rank) if op == "Slice" else Adjustment()


def are_whole(stays: np.ndarray) -> bool:
    """Whether of each group `[groups, channels]` all or nothing stays."""
    return bool((stays == stays[:, :1]).all())


def _split(graph: Graph, keep: Mapping[Port, np.ndarray], number: int, axis: int) -> Adjustment:
    outs = graph.nodes[number].output
    if not any((out, axis) in keep for out in outs):
        return Adjustment()
    sizes = [int(keep[out, axis].sum()) if (out, axis) in keep else graph.size((out, axis)) or 0 for out in outs]
    return Adjustment({"num_outputs": None}, {1: np.array(sizes, np.int64)})


def _gather(graph: Graph, keep: Mapping[Port, np.ndarray], number: int, axis: int) -> Adjustment:
    stays = keep.get((graph.inputs[number][0], axis))
    chosen = graph.integers(graph.inputs[number][1])
    if stays is None or chosen is None:
        return Adjustment()
    left = keep.get((graph.nodes[number].output[0], axis), np.ones(len(chosen), bool))
    places = np.cumsum(stays) - 1
    return Adjustment(inputs={1: places[np.array(chosen, np.int64)[left]].astype(np.int64)})


def _slice(graph: Graph, keep: Mapping[Port, np.ndarray], number: int, rank: int) -> Adjustment:
    x = graph.inputs[number][0]
    taken = slices(graph, number, rank) if any((x, axis) in keep for axis in range(rank)) else None
    if not taken:
        return Adjustment()
    starts, ends = graph.integers(graph.inputs[number][1]) or [], graph.integers(graph.inputs[number][2]) or []
    for at, (axis, part) in enumerate(taken.items()):
        stays = keep.get((x, axis))
        if stays is not None:
            start, end, _ = part.indices(len(stays))
            starts[at] = int(stays[:start].sum())
            ends[at] = starts[at] + int(stays[start:end].sum())
    return Adjustment(inputs={1: np.array(starts, np.int64), 2: np.array(ends, np.int64)})
