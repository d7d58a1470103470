"""Whole blocks: a residual branch x + f(x) that goes, so that x is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from autotune.techniques.protocol import Plan
from autotune.techniques.prune.graph import Graph


@dataclass(frozen=True)
class Block:
    """`add` (a node's name) adds `branch`, what f computes, to input number `stays`. `layers` are those of f that
    nobody else needs, in execution order."""

    add: str
    stays: int
    layers: tuple[str, ...]


def blocks_of(graph: Graph) -> list[Block]:
    """All residual branches with layers, inner ones first where one holds another; no layer leads two."""
    found: list[Block] = []
    for number, node in enumerate(graph.nodes):
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
            continue
        shapes = [graph.shape(name) for name in (*node.input, node.output[0])]
        if shapes[0] is None or shapes[0] != shapes[1] or shapes[0] != shapes[2]:
            continue
        for stays in (0, 1):
            branch = graph.producer.get(node.input[1 - stays])
            if branch is None or not _depends(graph, branch, node.input[stays]):
                continue
            gone = _only_for(graph, number, node.input[1 - stays], node.input[stays])
            names = {graph.nodes[at].name for at in gone}
            layers = tuple(name for name, layer in graph.layers.items() if names.issuperset(layer.nodes))
            if layers and not any(block.layers[0] == layers[0] for block in found):
                found.append(Block(node.name, stays, layers))
    return found


def _depends(graph: Graph, number: int, tensor: str) -> bool:
    """Whether a node reads `tensor`, directly or not."""
    waiting, seen = [number], {number}
    while waiting:
        for name in graph.inputs[waiting.pop()]:
            if name == tensor:
                return True
            source = graph.producer.get(name)
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def _only_for(graph: Graph, add: int, tensor: str, stays: str) -> set[int]:
    """Nodes that compute `tensor` and nothing that is needed where `stays` takes the place of the sum."""
    gone, waiting = {add}, [tensor]
    while waiting:
        name = waiting.pop()
        number = graph.producer.get(name)
        if number is None or number in gone:
            continue
        outs = [out for out in graph.nodes[number].output if out]
        if all(
            out != stays and out not in graph.outputs and gone.issuperset(graph.readers.get(out, ())) for out in outs
        ):
            gone.add(number)
            waiting += graph.inputs[number]
    return gone - {add}


def remove(plan: Plan, blocks: Sequence[Block]) -> None:
    """Take blocks out of the plan, and what only they needed. One that is gone with another is passed over."""
    for block in blocks:
        add = next((node for node in plan.nodes if node.name == block.add), None)
        if add is None:
            continue
        left, result = add.input[block.stays], add.output[0]
        readers = plan.consumers().get(result, [])
        if result in plan.output_names() or any(result not in reader.input for reader in readers):
            kept = [onnx.helper.make_node("Identity", [left], [result], name=add.name)]
        else:
            kept = []
        changed = {id(reader) for reader in readers} if not kept else set()
        nodes: list[onnx.NodeProto] = []
        for node in plan.nodes:
            if node is add:
                nodes += kept
            else:
                nodes.append(_reading(node, result, left) if id(node) in changed else node)
        plan.nodes = nodes
        drop_unused(plan)


def _reading(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    """A copy that reads `new` in the place of `old`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new if name == old else name for name in node.input]
    return copy


def drop_unused(plan: Plan) -> None:
    """Drop nodes whose results nobody reads, and layers without nodes."""
    reads: dict[int, list[str]] = {}
    count: dict[str, int] = dict.fromkeys(plan.output_names(), 1)
    for tensor, readers in plan.consumers().items():
        for node in {id(reader): reader for reader in readers}.values():
            reads.setdefault(id(node), []).append(tensor)
            count[tensor] = count.get(tensor, 0) + 1
    makers = {name: node for node in plan.nodes for name in node.output if name}
    waiting, dead = list(plan.nodes), set()
    while waiting:
        node = waiting.pop()
        if id(node) in dead or any(count.get(name) for name in node.output if name):
            continue
        dead.add(id(node))
        for tensor in reads.get(id(node), ()):
            count[tensor] -= 1
            if tensor in makers:
                waiting.append(makers[tensor])
    plan.nodes = [node for node in plan.nodes if id(node) not in dead]
    names = {node.name for node in plan.nodes}
    for layer in list(plan.layers.values()):
        left = tuple(name for name in layer.nodes if name in names)
        if not left:
            plan.split(layer.name, ())
        elif left != layer.nodes:
            plan.layers[layer.name] = replace(layer, nodes=left)
