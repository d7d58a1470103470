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
    return relation
