"""Carry out cuts: constants, nodes, target shapes, layers and moments become what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import Plan
from autotune.techniques.prune.adjust import adjustment, are_whole
from autotune.techniques.prune.blocks import drop_unused
from autotune.techniques.prune.graph import TARGETS, Graph, Port
from autotune.techniques.prune.importance import read_by
from autotune.techniques.prune.targets import Targets
from hwprofiles.errors import Failure

Keep = Mapping[Port, np.ndarray]  # port -> bool per position: what stays
Place = tuple[int, int]  # a node's number and one of its inputs


def cut(plan: Plan, graph: Graph, keep: Keep) -> None:
    """Leave only what `keep` says of the ports in it; all others stay whole. `graph` is that of the plan as it is.

    Raises `TrialFailure` where the result does not have the sizes that it must have.
    """
    for (tensor, axis), stays in keep.items():
        if not stays.any():
            raise failure(f"nothing would be left of axis {axis} of tensor {tensor!r}; cut less")
    names = _constants(plan, graph, keep)
    targets = Targets(plan, graph, keep)
    nodes: list[onnx.NodeProto] = []
    for number, original in enumerate(graph.nodes):
        node = _edited(plan, graph, keep, number, names)
        slot = TARGETS.get(original.op_type)
        if slot is not None and slot < len(original.input) and original.input[slot]:
            node, extra = targets.renewed(node, slot)
            nodes += extra
        nodes.append(node)
    plan.nodes = nodes
    tell_moments(plan, graph, keep)
    _tell_layers(plan, graph, names)
    drop_unused(plan)
    _verify(plan, keep)


def sizes_left(weight: str, shape: Sequence[int], keep: Keep) -> tuple[int, ...]:
    """What a layer's weight of `shape` is cut to."""
    return tuple(int(keep[weight, axis].sum()) if (weight, axis) in keep else size for axis, size in enumerate(shape))


def failure(message: str) -> TrialFailure:
    """A decision that cannot be carried out."""
    return TrialFailure(Failure(kind="unsupported", stage="build", message=message))


def _constants(plan: Plan, graph: Graph, keep: Keep) -> dict[Place, str]:
    """Cut constants. A vector that is also read elsewhere gets a new name where it is cut."""
    axes: dict[str, dict[int, np.ndarray]] = {}
    for (tensor, axis), stays in keep.items():
        if graph.is_constant(tensor):
            axes.setdefault(tensor, {})[axis] = stays
    renamed: dict[Place, str] = {}
    for tensor, kept in axes.items():
        name = graph.origin.get(tensor, tensor)
        array = numpy_helper.to_array(graph.tensors[name])
        for axis, stays in kept.items():
            array = np.compress(stays, array, axis=axis)
        if tensor in graph.origin:
            number = graph.readers[tensor][0]
            slot = graph.inputs[number].index(tensor)
            if len(graph.readers[name]) > 1 or list(graph.nodes[number].input).count(name) > 1:
                name = f"{name}:{graph.nodes[number].name}.{slot}"
                renamed[number, slot] = name
        plan.set_tensor(name, array)
    return renamed


def _edited(plan: Plan, graph: Graph, keep: Keep, number: int, names: Mapping[Place, str]) -> onnx.NodeProto:
    """The node with the constants and attributes that it has now; itself where nothing changes."""
    node = graph.nodes[number]
    inputs = [names.get((number, slot), name) for slot, name in enumerate(node.input)]
    change = adjustment(graph, keep, number)
    for slot, value in change.inputs.items():
        name = f"{node.name}:input{slot}"
        plan.set_tensor(name, value)
        inputs[slot : slot + 1] = [name]
    if inputs == list(node.input) and not change.attributes:
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = inputs
    left = [attribute for attribute in node.attribute if attribute.name not in change.attributes]
    new = [helper.make_attribute(name, value) for name, value in change.attributes.items() if value is not None]
    copy.ClearField("attribute")
    copy.attribute.extend([*left, *new])
    return copy


def _tell_layers(plan: Plan, graph: Graph, names: Mapping[Place, str]) -> None:
    """Shapes, counts, groups and biases of the layers as they are now."""
    nodes = {node.name: node for node in plan.nodes}
    for layer in list(plan.layers.values()):
        shape = tuple(int(dim) for dim in plan.tensors[layer.weight].dims)
        biases = {names.get((graph.by_name[name], 2), layer.bias) for name in layer.nodes}
        groups = {int(a.i) for name in layer.nodes for a in nodes[name].attribute if a.name == "group"}
        plan.layers[layer.name] = replace(
            layer,
            shape=shape,
            parameters=prod(shape),
            bias=layer.bias if layer.bias is None else next(iter(biases)) if len(biases) == 1 else None,
            group=next(iter(groups), 1),
        )


def tell_moments(plan: Plan, graph: Graph, keep: Keep) -> None:
    """Leave of what is known about layers' inputs that of the inputs that stay."""
    for layer in graph.layers.values():
        port = read_by(graph, layer)
        stays = None if port is None else keep.get(port)
        moments = plan.moments(layer.name)
        if stays is not None and moments is not None:
            plan.set_moments(layer.name, _left(layer, moments, stays))


def _left(layer: Layer, moments: Moments, stays: np.ndarray) -> Moments:
    """Moments of the inputs that stay: a channel of a convolution has a column per place of the kernel."""
    group = layer.group if layer.op == "Conv" else 1
    kernel = prod(layer.shape[2:]) if layer.op == "Conv" else 1
    rows = stays.reshape(group, -1)
    if group > 1 and are_whole(rows):
        whole = np.flatnonzero(rows[:, 0])
        return Moments(moments.gram[whole], moments.mean[whole], moments.rows)
    columns = np.flatnonzero(np.repeat(rows[0], kernel))
    return moments.select(columns)


def _verify(plan: Plan, keep: Keep) -> None:
    """Every size that was to be cut is what it must be now."""
    shapes = plan.shapes()
    for (tensor, axis), stays in keep.items():
        shape = shapes.get(tensor)
        found = shape[axis] if shape is not None and axis < len(shape) else None
        if found is not None and found != int(stays.sum()):
            raise failure(
                f"cutting axis {axis} of tensor {tensor!r} to {int(stays.sum())} gave {found}; leave its layers out of "
                "prune and report the model"
            )
