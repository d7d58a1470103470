"""Products and convolutions."""

from __future__ import annotations

import numpy as np

from autotune.techniques.nodes import integer
from autotune.techniques.prune.relation import HEADS, Relation, Rule, Way
from autotune.techniques.prune.rules_pointwise import broadcast


def _matmul(relation: Relation) -> None:
    left, right = relation.ins
    ranks = relation.ranks(left, right, relation.out)
    if ranks is None:
        return
    if min(ranks[:2]) < 2:
        relation.default = "multiplies by a vector"
        return
    inner = (left, ranks[0] - 1), (right, ranks[1] - 2)
    relation.same(*inner)
    relation.same((left, ranks[0] - 2), (relation.out, ranks[2] - 2))
    relation.same((right, ranks[1] - 1), (relation.out, ranks[2] - 1))
    broadcast(relation, (left, right), last=2)
    if relation.graph.is_constant(left) or relation.graph.is_constant(right):
        return
    relation.stop("sums over it and multiplies two activations: parts of heads are not cut", *inner)
    for port in [(relation.out, axis) for axis in range(ranks[2] - 2)]:
        if port in relation.always.ports:
            relation.always.allow(port, HEADS)


def _gemm(relation: Relation) -> None:
    node, (left, right) = relation.node, relation.ins[:2]
    if relation.ranks(left, right, relation.out) is None:
        return
    across, down = integer(node, "transA", 0), integer(node, "transB", 0)
    relation.same((left, 1 - across), (right, down))
    relation.same((left, across), (relation.out, 0))
    relation.same((right, 1 - down), (relation.out, 1))
    bias = relation.graph.optional(relation.number, 2)
    if bias:
        broadcast(relation, (bias,))


def _conv(relation: Relation) -> None:
    x, weight = relation.ins[:2]
    if relation.ranks(x, weight, relation.out) is None:
        return
    relation.default = "runs a kernel over it"
    relation.same((x, 0), (relation.out, 0))
    relation.same((weight, 0), (relation.out, 1))
    bias = relation.graph.optional(relation.number, 2)
    if bias:
        relation.same((bias, 0), (relation.out, 1))
    group = integer(relation.node, "group", 1)
    if group == 1:
        relation.same((x, 1), (weight, 1))
    elif not relation.graph.is_constant(weight):
        relation.default = "is a grouped convolution whose weight is computed at run time"
    else:
        _grouped(relation, (x, 1), (relation.out, 1), (weight, 1), group)


def _conv_transpose(relation: Relation) -> None:
    x, weight = relation.ins[:2]
    if relation.ranks(x, weight, relation.out) is None:
        return
    relation.default = "runs a kernel over it"
    relation.same((x, 0), (relation.out, 0))
    relation.same((x, 1), (weight, 0))
    bias = relation.graph.optional(relation.number, 2)
    if bias:
        relation.same((bias, 0), (relation.out, 1))
    group = integer(relation.node, "group", 1)
    if group == 1:
        relation.same((weight, 1), (relation.out, 1))
    elif not relation.graph.is_constant(weight):
        relation.default = "is a grouped convolution whose weight is computed at run time"
    else:
        _grouped(relation, (x, 1), (relation.out, 1), None, group)


def _grouped(
    relation: Relation, x: tuple[str, int], out: tuple[str, int], inner: tuple[str, int] | None, group: int
) -> None:
    """Two ways to keep groups equal: whole groups go, or (where `inner`, the weight's axis of inputs, is given) the
    same channels of every group. The finer one is tried first."""
    channels, outputs = relation.graph.size(x), relation.graph.size(out)
    if channels is None or outputs is None or channels % group or outputs % group:
        relation.stop("has sizes that are not known", x, out)
        return
    whole = _whole_groups(x, out, channels, outputs, group)
    if inner is None or channels == group:
        relation.choices.append([whole])
        return
    each_in, each_out = channels // group, outputs // group
    alike = Way()
    every = np.arange(channels)
    alike.tie(x, inner, every, every % each_in)
    every = np.arange(outputs)
    alike.tie(out, out, every, every % each_out)
    relation.choices.append([whole, alike] if group >= max(each_in, each_out) else [alike, whole])


def _whole_groups(x: tuple[str, int], out: tuple[str, int], channels: int, outputs: int, group: int) -> Way:
    """All positions of a group go together, those of the input and those of the output."""
    each_in, each_out = channels // group, outputs // group
    way = Way()
    every = np.arange(channels)
    way.tie(x, out, every, every // each_in * each_out)
    every = np.arange(outputs)
    way.tie(x, out, every // each_out * each_in, every)
    return way


PRODUCTS: dict[str, Rule] = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "ConvTranspose": _conv_transpose}
