"""Reshape and its relatives: axes that are split, merged and regrouped.

A row-major reshape is a regrouping of factors: 384 = 12 x 32 becomes the axes 12 and 32, 64 x 7 x 7 becomes 3136. One
factor at a time can be cut. Where an axis has several, each is a way of its own (heads, or numbers within heads).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np

from autotune.techniques.nodes import integer
from autotune.techniques.prune.graph import Port, Size
from autotune.techniques.prune.relation import Relation, Rule, Way

Extent = int | Port  # the size of an axis; of one that varies a port that stands for all of that size
Chunk = tuple[tuple[int, ...], tuple[int, ...]]  # axes before and after that hold the same numbers


def digits(count: int, factor: int, stride: int) -> np.ndarray:
    """For each of `count` positions: its digit of `factor` at `stride`."""
    return np.arange(count) // stride % factor


def _reshape(relation: Relation) -> None:
    x, out, graph = relation.ins[0], relation.out, relation.graph
    before, after = graph.shape(x), graph.shape(out)
    if before is None or after is None or len(relation.ins) < 2:
        relation.default = "has an input or output of unknown shape"
        return
    copies = not integer(relation.node, "allowzero", 0)
    for axis, element in enumerate(graph.elements(relation.ins[1]) or ()):
        if after[axis] is None and isinstance(element, Size):
            graph.equate((out, axis), (element.tensor, element.axis))
        elif after[axis] is None and element == 0 and copies:
            graph.equate((out, axis), (x, axis))
    sides = [
        [graph.symbol((name, axis)) if size is None else size for axis, size in enumerate(shape)]
        for name, shape in ((x, before), (out, after))
    ]
    _regroup(relation, chunks(*sides), before, after)


def _flatten(relation: Relation) -> None:
    before, after = relation.graph.shape(relation.ins[0]), relation.graph.shape(relation.out)
    if before is None or after is None:
        relation.default = "has an input or output of unknown shape"
        return
    axis = integer(relation.node, "axis", 1)
    at = axis % len(before) if axis < 0 else axis
    parts = [(tuple(range(at)), (0,)), (tuple(range(at, len(before))), (1,))]
    _regroup(relation, parts, before, after)


def chunks(before: Sequence[Extent], after: Sequence[Extent]) -> list[Chunk]:
    """Groups of axes that hold the same numbers in the same order, as far as sizes show it, from both ends."""
    if 0 in before or 0 in after:
        return []
    found = _from_left(before, after)
    i, j = (max((axes[-1] + 1 for axes in side), default=0) for side in zip(*found, strict=True)) if found else (0, 0)
    for one, other in _from_left(before[: i - 1 if i else None : -1], after[: j - 1 if j else None : -1]):
        axes_before = tuple(len(before) - 1 - axis for axis in reversed(one))
        found.append((axes_before, tuple(len(after) - 1 - axis for axis in reversed(other))))
    return found


def _from_left(before: Sequence[Extent], after: Sequence[Extent]) -> list[Chunk]:
    """Equal sizes, or products of known ones that become equal; it ends where that cannot be told. Axes of size 1 are
    passed over."""
    found: list[Chunk] = []
    i = j = 0
    while i < len(before) and j < len(after):
        if before[i] == after[j]:
            found.append(((i,), (j,)))
            i, j = i + 1, j + 1
        elif before[i] == 1:
            i += 1
        elif after[j] == 1:
            j += 1
        else:
            ends = _equal_products(before[i:], after[j:])
            if ends is None:
                return found
            found.append((tuple(range(i, i + ends[0])), tuple(range(j, j + ends[1]))))
            i, j = i + ends[0], j + ends[1]
    return found


def _equal_products(before: Sequence[Extent], after: Sequence[Extent]) -> tuple[int, int] | None:
    """How many axes on each side have the same product; None where one that varies comes first."""
    taken, products = [0, 0], [1, 1]
    while products[0] != products[1] or not all(taken):
        side = 0 if products[0] < products[1] or not taken[0] else 1
        sizes = before if side == 0 else after
        size = sizes[taken[side]] if taken[side] < len(sizes) else None
        if not isinstance(size, int):
            return None
        taken[side] += 1
        products[side] *= size
    return taken[0], taken[1]


def _regroup(
    relation: Relation, parts: Sequence[Chunk], before: Sequence[int | None], after: Sequence[int | None]
) -> None:
    relation.default = "changes axes whose sizes are not known"
    for one, other in parts:
        if len(one) == 1 and len(other) == 1:
            relation.same((relation.ins[0], one[0]), (relation.out, other[0]))
            continue
        sizes = [before[axis] for axis in one], [after[axis] for axis in other]
        known = [[size for size in side if size is not None] for side in sizes]
        if len(known[0]) < len(sizes[0]) or len(known[1]) < len(sizes[1]):
            continue
        ports = [(relation.ins[0], axis) for axis in one], [(relation.out, axis) for axis in other]
        ways = _ways(ports, known)
        relation.default = "mixes it with other axes"
        if len(ways) == 1:
            relation.always.ties += ways[0].ties
            relation.always.ports.update(ways[0].ports)
        elif ways:
            relation.choices.append(ways)


def _ways(ports: tuple[list[Port], list[Port]], sizes: list[list[int]]) -> list[Way]:
    """One way per factor that both sides have; none where the sides do not divide each other."""
    borders = sorted({prod(side[at:]) for side in sizes for at in range(len(side) + 1)})
    if any(large % small for small, large in pairwise(borders)):
        return []
    ways = []
    for small, large in reversed(list(pairwise(borders))):
        sides = [_at(ports[which], sizes[which], small, large) for which in (0, 1)]
        (a, at_a, first_a), (b, at_b, first_b) = sides
        way = Way(factor=large // small)
        way.tie(a, b, np.arange(len(at_a)), first_b[at_a])
        way.tie(a, b, first_a[at_b], np.arange(len(at_b)))
        ways.append(way)
    return ways


def _at(ports: list[Port], sizes: list[int], small: int, large: int) -> tuple[Port, np.ndarray, np.ndarray]:
    """The axis that holds the factor between two borders, each position's digit of it, each digit's first position."""
    inner = 1
    for port, size in zip(reversed(ports), reversed(sizes), strict=True):
        if inner <= small and large <= inner * size:
            stride, factor = small // inner, large // small
            return port, digits(size, factor, stride), np.arange(factor) * stride
        inner *= size
    raise AssertionError("a factor between two borders lies in one axis")


def _squeeze(relation: Relation) -> None:
    """Axes of size 1 go (Squeeze) or come (Unsqueeze)."""
    x, out = relation.ins[0], relation.out
    ranks = relation.ranks(x, out)
    if ranks is None:
        return
    axes = relation.graph.axes(relation.number, 1)
    if not axes:
        relation.default = "removes or adds axes that are only known at run time"
        return
    long, short = (x, out) if relation.node.op_type == "Squeeze" else (out, x)
    rank = max(ranks)
    left = [axis for axis in range(rank) if axis not in {axis % rank for axis in axes}]
    for position, axis in enumerate(left):
        relation.same((long, axis), (short, position))


def _depth_to_space(relation: Relation) -> None:
    """block x block channels on one side are one channel on the other, and go together."""
    node, graph = relation.node, relation.graph
    deep, flat = (relation.ins[0], 1), (relation.out, 1)
    if node.op_type == "SpaceToDepth":
        deep, flat = flat, deep
    many, few = graph.size(deep), graph.size(flat)
    if many is None or few is None:
        relation.default = "has sizes that are not known"
        return
    crd = any(attribute.name == "mode" and attribute.s == b"CRD" for attribute in node.attribute)
    relation.default = "moves it into channels"
    relation.same((relation.ins[0], 0), (relation.out, 0))
    relation.always.tie(deep, flat, np.arange(many), digits(many, few, many // few if crd else 1))


RESHAPES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
}
