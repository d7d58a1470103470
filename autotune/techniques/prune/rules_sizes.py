"""Shape: a size that is read at run time changes with a cut, so what is done with it must be known."""

from __future__ import annotations

import onnx

from autotune.techniques.prune.graph import MOVES, TARGETS, Graph, Size
from autotune.techniques.prune.relation import Relation, Rule


def _shape(relation: Relation) -> None:
    x = relation.ins[0]
    for axis in range(relation.rank(x) or 0):
        culprit = _misuse(relation.graph, relation.out, Size(relation.node.input[0], axis))
        if culprit is None:
            relation.always.allow((x, axis))
        else:
            relation.stop(f"reads its size, and node {culprit!r} computes with that", (x, axis))


def _misuse(graph: Graph, tensor: str, size: Size) -> str | None:
    """The node that does something else with the size than to move it into the target of a Reshape, an Expand or a
    Resize whose output has a known size there (targets are written anew after a cut)."""
    waiting, seen = [tensor], {tensor}
    while waiting:
        name = waiting.pop()
        elements = graph.elements(name)
        if elements is not None and size not in elements:
            continue
        if elements is None or name in graph.outputs:
            return graph.nodes[graph.producer[name]].name
        for number in graph.readers.get(name, []):
            node = graph.nodes[number]
            if node.op_type in TARGETS and not _by_axes(node) and list(node.input).index(name) == TARGETS[node.op_type]:
                shape = graph.shape(node.output[0])
                if shape is None or any(shape[at] is None for at, e in enumerate(elements) if e == size):
                    return node.name
            elif node.op_type not in MOVES:
                return node.name
            elif node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return None


def _by_axes(node: onnx.NodeProto) -> bool:
    """A Resize whose sizes are those of some axes only."""
    return any(attribute.name == "axes" for attribute in node.attribute)


SIZES: dict[str, Rule] = {"Shape": _shape}
