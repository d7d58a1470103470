"""Operators that move numbers without changing them: along an axis, between tensors, into copies."""

from __future__ import annotations

import numpy as np

from autotune.techniques.nodes import attribute, integer, text
from autotune.techniques.prune.graph import Size, slices
from autotune.techniques.prune.relation import TABLE, Relation, Rule


def _transpose(relation: Relation) -> None:
    ranks = relation.ranks(relation.ins[0], relation.out)
    if ranks is None:
        return
    given = attribute(relation.node, "perm", None)
    order = list(given) if isinstance(given, list) else list(reversed(range(ranks[0])))
    for position, axis in enumerate(order):
        relation.same((relation.ins[0], axis), (relation.out, position))


def _concat(relation: Relation) -> None:
    """A position of the output is one of an input, behind those of the inputs before it."""
    ranks = relation.ranks(relation.out, *relation.ins)
    if ranks is None:
        return
    along = integer(relation.node, "axis", 0) % ranks[0]
    _join(relation, along, relation.out, relation.ins)
    for name in dict.fromkeys(relation.ins):
        for axis in range(ranks[0]):
            if axis != along:
                relation.same((name, axis), (relation.out, axis))


def _split(relation: Relation) -> None:
    outs = tuple(relation.node.output)
    ranks = relation.ranks(relation.ins[0], *outs)
    if ranks is None:
        return
    along = integer(relation.node, "axis", 0) % ranks[0]
    given = relation.graph.optional(relation.number, 1)
    fixed = attribute(relation.node, "split", None) is not None  # before opset 13
    if fixed or (given and relation.graph.integers(given) is None):
        relation.stop(
            "splits it at places that cannot be changed", *((name, along) for name in (relation.ins[0], *outs))
        )
    else:
        _join(relation, along, relation.ins[0], outs)
    for name in outs:
        for axis in range(ranks[0]):
            if axis != along:
                relation.same((relation.ins[0], axis), (name, axis))


def _join(relation: Relation, axis: int, whole: str, parts: tuple[str, ...]) -> None:
    sizes = [relation.graph.size((name, axis)) for name in parts]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or relation.graph.size((whole, axis)) != sum(known):
        relation.stop("has sizes that are not known", *((name, axis) for name in (whole, *parts)))
        return
    start = 0
    for name, size in zip(parts, known, strict=True):
        every = np.arange(size)
        relation.always.tie((whole, axis), (name, axis), every + start, every)
        start += size


def _slice(relation: Relation) -> None:
    x, out, graph = relation.ins[0], relation.out, relation.graph
    ranks = relation.ranks(x, out)
    if ranks is None:
        return
    given = graph.optional(relation.number, 3)
    axes = graph.integers(given) if given else None
    taken = slices(graph, relation.number, ranks[0])
    if taken is None and axes is None:
        relation.default = "takes parts that are computed at run time"
        return
    touched = set(taken) if taken is not None else {axis % ranks[0] for axis in axes or ()}
    for axis in range(ranks[0]):
        if axis not in touched:
            relation.same((x, axis), (out, axis))
            continue
        size = graph.size((x, axis))
        if taken is None or size is None or taken[axis].step != 1:
            relation.stop("takes parts that are computed at run time or no range", (x, axis), (out, axis))
            continue
        positions = np.arange(size)[taken[axis]]
        if graph.size((out, axis)) == len(positions):
            relation.always.tie((x, axis), (out, axis), positions, np.arange(len(positions)))


def _gather(relation: Relation) -> None:
    """Rows of a table, or a fixed choice of positions of an activation."""
    x, at, graph = relation.ins[0], relation.ins[1], relation.graph
    ranks = relation.ranks(x, at, relation.out)
    if ranks is None:
        return
    along = integer(relation.node, "axis", 0) % ranks[0]
    for axis in range(ranks[0]):
        if axis != along:
            relation.same((x, axis), (relation.out, axis if axis < along else axis + ranks[1] - 1))
            if (x, axis) in relation.always.ports and not graph.is_constant(at) and graph.is_fixed(x):
                relation.always.allow((x, axis), TABLE)
    for axis in range(ranks[1]):
        if graph.is_constant(at):
            break
        relation.same((at, axis), (relation.out, along + axis))
    chosen, size = graph.integers(at), graph.size((x, along))
    if chosen is not None and ranks[1] == 1 and size is not None:
        positions = np.array(chosen, np.int64) % size
        relation.always.tie((x, along), (relation.out, along), positions, np.arange(len(positions)))
    else:
        relation.stop("picks from it", (x, along))


def _pad(relation: Relation) -> None:
    x, graph = relation.ins[0], relation.graph
    ranks = relation.ranks(x, relation.out)
    pads = graph.integers(graph.optional(relation.number, 1))
    given = graph.optional(relation.number, 3)
    axes = graph.integers(given) if given else (list(range(ranks[0])) if ranks else None)
    if ranks is None or (axes is None and given):
        return
    relation.default = "pads it"
    padded = {}
    for position, axis in enumerate(axes or ()):
        amount = (1, 1) if pads is None else (pads[position], pads[position + len(axes or ())])
        padded[axis % ranks[0]] = amount != (0, 0)
    for axis in range(ranks[0]):
        if not padded.get(axis):
            relation.same((x, axis), (relation.out, axis))


def _expand(relation: Relation) -> None:
    """Axes that are there pass; copies along others may be cut without consequence."""
    x, out, graph = relation.ins[0], relation.out, relation.graph
    ranks = relation.ranks(x, out)
    if ranks is None:
        return
    shift = ranks[1] - ranks[0]
    elements = graph.elements(relation.ins[1]) or ()
    for axis in range(ranks[1]):
        here, there = (x, axis - shift), (out, axis)
        element = elements[axis] if len(elements) == ranks[1] else None
        source = (element.tensor, element.axis) if isinstance(element, Size) else None
        if axis < shift or (graph.size(here) == 1 and graph.size(there) != 1):
            relation.always.allow(there)
            if source is not None and graph.size(there) is None:
                graph.equate(there, source)
        elif graph.size(there) is not None:
            relation.same(here, there)
        elif element == 1 or (source is not None and graph.symbol(source) == graph.symbol(here)):
            graph.equate(there, here)  # else the one or the other may be 1 and broadcast


def _tile(relation: Relation) -> None:
    x, out, graph = relation.ins[0], relation.out, relation.graph
    ranks, repeats = relation.ranks(x, out), graph.integers(relation.ins[1])
    if ranks is None or repeats is None:
        relation.default = "repeats it as often as is computed at run time"
        return
    for axis in range(ranks[0]):
        size = graph.size((x, axis))
        if repeats[axis] == 1 or size is None:
            relation.same((x, axis), (out, axis))
        else:
            every = np.arange(size * repeats[axis])
            relation.always.tie((out, axis), (x, axis), every, every % size)


def _resize(relation: Relation) -> None:
    """An axis of unchanged size passes, where it is certain that it is not resampled."""
    x, out, graph, node = relation.ins[0], relation.out, relation.graph, relation.node
    ranks = relation.ranks(x, out)
    relation.default = "resamples it"
    if ranks is None or text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return
    axes = attribute(node, "axes", None)
    touched = {axis % ranks[0] for axis in axes} if isinstance(axes, list) else set(range(ranks[0]))
    wanted, scales = graph.optional(relation.number, 3), graph.optional(relation.number, 2)
    sizes = graph.elements(wanted) if wanted and axes is None else None
    factors = graph.constant(scales) if scales and axes is None else None
    for axis in range(ranks[0]):
        size = graph.size((x, axis))
        if sizes is not None:
            passes = size is not None and sizes[axis] in (size, Size(relation.node.input[0], axis))
        else:
            passes = factors is not None and factors.size == ranks[0] and float(factors[axis]) == 1.0
        if axis not in touched or passes:
            relation.same((x, axis), (out, axis))


LAYOUT: dict[str, Rule] = {
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "Resize": _resize,
}
