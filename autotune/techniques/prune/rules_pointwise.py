"""Operators that work on each number for itself, with broadcasting, and pooling and the like, which leave channels
alone."""

from __future__ import annotations

from autotune.techniques.prune.graph import Port
from autotune.techniques.prune.relation import Relation, Rule

_ONE = (
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Erf", "Exp", "Log",
    "Sqrt", "Reciprocal", "Abs", "Neg", "Softplus", "Softsign", "Elu", "Selu", "Celu", "ThresholdedRelu", "Identity",
    "Cast", "Dropout", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Not", "IsNaN", "IsInf", "Shrink", "Swish",
)  # fmt: skip
_SEVERAL = (
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Where", "PRelu", "Equal", "Greater", "Less",
    "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "Mod",
)  # fmt: skip
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")


def _one(relation: Relation) -> None:
    """The first input's axes are the output's; other inputs (bounds, ratios) are scalars."""
    ranks = relation.ranks(relation.ins[0], relation.out)
    if ranks is None:
        return
    for out in relation.node.output:
        for axis in range(ranks[0]) if out else ():
            relation.same((relation.ins[0], axis), (out, axis))


def broadcast(relation: Relation, tensors: tuple[str, ...], last: int = 0) -> None:
    """Axes of `tensors` and of the output, aligned at the right, without the `last` ones: equal or broadcast."""
    ranks = relation.ranks(relation.out, *tensors)
    if ranks is None:
        return
    graph = relation.graph
    varying: dict[int, list[Port]] = {}
    for tensor, rank in zip(tensors, ranks[1:], strict=True):
        for axis in range(rank - last):
            at = axis + ranks[0] - rank
            here, there = (tensor, axis), (relation.out, at)
            if graph.size(here) is None and graph.size(there) is None:
                varying.setdefault(at, []).append(here)
            elif graph.size(here) != 1 or graph.size(there) == 1:
                relation.same(here, there)
    for at, ports in varying.items():
        if len({graph.symbol(port) for port in ports}) == 1:  # else any of them may be 1 and broadcast
            graph.equate((relation.out, at), ports[0])


def _several(relation: Relation) -> None:
    if any(attribute.name in ("axis", "broadcast") for attribute in relation.node.attribute):
        relation.default = "broadcasts in the way of opset 6"
        return
    broadcast(relation, tuple(name for name in relation.ins if name))


def _pool(relation: Relation) -> None:
    """Batch and channels pass; a window runs over everything else."""
    relation.default = "runs a window over it"
    if relation.ranks(relation.ins[0], relation.out) is not None:
        for out in relation.node.output:
            for axis in (0, 1) if out else ():
                relation.same((relation.ins[0], axis), (out, axis))


POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(_ONE, _one),
    **dict.fromkeys(_SEVERAL, _several),
    **dict.fromkeys(_POOLS, _pool),
}
