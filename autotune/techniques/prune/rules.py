"""All operators that a cut is followed through. Anything else stops it."""

from __future__ import annotations

from autotune.techniques.prune.graph import Graph
from autotune.techniques.prune.relation import Relation, Rules
from autotune.techniques.prune.rules_layout import LAYOUT
from autotune.techniques.prune.rules_norms import NORMS
from autotune.techniques.prune.rules_pointwise import POINTWISE
from autotune.techniques.prune.rules_products import PRODUCTS
from autotune.techniques.prune.rules_reshape import RESHAPES
from autotune.techniques.prune.rules_sizes import SIZES

_WEIGHTS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,)}  # inputs that may be weights

_RULES: Rules = {**POINTWISE, **PRODUCTS, **NORMS, **LAYOUT, **RESHAPES, **SIZES}


def relation_of(graph: Graph, number: int) -> Relation:
    """What node `number` says about the positions of its tensors."""
    relation = Relation(graph, number)
    node = graph.nodes[number]
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is not None:
        rule(relation)
    else:
        relation.default = "is an operator that no cut is followed through"
    _keep_unsearchable(relation)
    return relation


def _keep_unsearchable(relation: Relation) -> None:
    """A weight that is no layer's is told as not searchable: then prune must not change it on the way either."""
    graph, node = relation.graph, relation.node
    if node.op_type not in _WEIGHTS or node.domain not in ("", "ai.onnx"):
        return
    for slot in _WEIGHTS[node.op_type]:
        name = graph.optional(relation.number, slot)
        if name and name not in graph.weights and graph.is_fixed(name):
            ports = [(name, axis) for axis in range(relation.rank(name) or 0)]
            relation.stop("has a weight that is not searchable, and stays as it is", *ports)
