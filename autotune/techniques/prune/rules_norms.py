"""Normalisations, reductions and softmax: what takes statistics over an axis."""

from __future__ import annotations

from autotune.techniques.nodes import integer
from autotune.techniques.prune.relation import NORM, Relation, Rule

_SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")  # a removed position counts as 0 there


def _batch_norm(relation: Relation) -> None:
    ranks = relation.ranks(relation.ins[0], relation.out)
    if ranks is None or len([name for name in relation.node.output if name]) > 1:
        return
    for axis in range(ranks[0]):
        relation.same((relation.ins[0], axis), (relation.out, axis))
    for name in relation.ins[1:]:
        relation.same((name, 0), (relation.out, 1))


def _instance_norm(relation: Relation) -> None:
    relation.default = "takes its statistics across it"
    for axis in (0, 1):
        relation.same((relation.ins[0], axis), (relation.out, axis))
    for name in relation.ins[1:]:
        relation.same((name, 0), (relation.out, 1))


def _layer_norm(relation: Relation) -> None:
    """Statistics over the last axes; they adapt where one of these is cut."""
    ranks = relation.ranks(relation.ins[0], relation.out)
    if ranks is None or any(relation.node.output[1:]):
        return
    first = integer(relation.node, "axis", -1) % ranks[0]
    for axis in range(ranks[0]):
        relation.same((relation.ins[0], axis), (relation.out, axis))
        if axis >= first and (relation.out, axis) in relation.always.ports:
            relation.always.allow((relation.out, axis), NORM)
    for name in (name for name in relation.ins[1:] if name):
        rank = relation.rank(name) or 0
        for axis in range(rank):
            if relation.graph.size((name, axis)) != 1:
                relation.same((name, axis), (relation.out, axis + ranks[0] - rank))


def _lp_norm(relation: Relation) -> None:
    ranks = relation.ranks(relation.ins[0], relation.out)
    if ranks is None:
        return
    for axis in range(ranks[0]):
        relation.same((relation.ins[0], axis), (relation.out, axis))
    normed = (relation.out, integer(relation.node, "axis", -1) % ranks[0])
    if normed in relation.always.ports:
        relation.always.allow(normed, NORM)


def _softmax(relation: Relation) -> None:
    ranks = relation.ranks(relation.ins[0], relation.out)
    if ranks is None:
        return
    # Before opset 13 all axes from the named one on were one, and the default was 1.
    over = integer(relation.node, "axis", 1) % ranks[0]
    relation.default = "compares all positions along it"
    for axis in range(over):
        relation.same((relation.ins[0], axis), (relation.out, axis))


def _reduce(relation: Relation) -> None:
    x, graph, node = relation.ins[0], relation.graph, relation.node
    ranks = relation.ranks(x)
    axes = graph.axes(relation.number, 1)
    if ranks is None or axes is None:
        relation.default = "reduces axes that are computed at run time"
        return
    if not axes and integer(node, "noop_with_empty_axes", 0):
        reduced: set[int] = set()
    else:
        reduced = {axis % ranks[0] for axis in axes} or set(range(ranks[0]))
    keep = integer(node, "keepdims", 1)
    position = 0
    for axis in range(ranks[0]):
        if axis not in reduced:
            relation.same((x, axis), (relation.out, position))
        elif node.op_type in _SUMS:
            relation.always.allow((x, axis))
        elif node.op_type == "ReduceMean" and _is_norm(relation):
            relation.always.allow((x, axis), NORM)
        else:
            relation.stop("reduces all positions along it to one", (x, axis))
        position += 1 if keep or axis not in reduced else 0


def _is_norm(relation: Relation) -> bool:
    """A mean that is subtracted from what it was taken of, or a mean square under a root: parts of a normalisation
    that is written out."""
    graph = relation.graph
    x, mean = relation.ins[0], relation.out
    if mean in graph.outputs:
        return False
    readers = [graph.nodes[number] for number in graph.readers.get(mean, [])]
    if all(reader.op_type == "Sub" and list(reader.input) == [x, mean] for reader in readers) and readers:
        return True
    source = graph.producer.get(x)
    squared = source is not None and _is_square(relation, source)
    if not squared or not readers:
        return False
    followers = [graph.nodes[n] for reader in readers for n in graph.readers.get(reader.output[0], [])]
    plus = all(reader.op_type == "Add" and any(map(graph.is_constant, reader.input)) for reader in readers)
    return plus and bool(followers) and all(node.op_type in ("Sqrt", "Pow", "Rsqrt") for node in followers)


def _is_square(relation: Relation, number: int) -> bool:
    node = relation.graph.nodes[number]
    if node.op_type == "Pow":
        exponent = relation.graph.constant(node.input[1])
        return exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0
    return node.op_type == "Mul" and node.input[0] == node.input[1]


NORMS: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys((*_SUMS, "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp"), _reduce),
}
