"""Reading a unit's weights per channel, and writing a scale into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from autotune.techniques.equalise.units import Unit, array
from autotune.techniques.protocol import Plan


def read_range(plan: Plan, unit: Unit) -> np.ndarray:
    """float64 `[channels]`: the largest magnitude among the weights of all readers."""
    largest = np.zeros(unit.channels)
    for name, channels in unit.readers.items():
        np.maximum.at(largest, channels, np.abs(by_input(plan, name)).max(axis=(1, 2)))
    return largest


def activation_squares(plan: Plan, reader: str) -> np.ndarray | None:
    """float64 `[inputs]`: E x^2 of a reader's inputs, over the places of a kernel; None where nothing is known."""
    moments = plan.moments(reader)
    if moments is None:
        return None
    inputs = len(by_input(plan, reader))
    found: np.ndarray = np.maximum(moments.squares.astype(np.float64), 0).reshape(inputs, -1).mean(axis=1)
    return found


def matrix_of(plan: Plan, reader: str) -> np.ndarray:
    """float32 `[outputs, inputs]` of a product or of a 1 x 1 convolution in one group."""
    return np.ascontiguousarray(by_input(plan, reader)[:, :, 0].T)


def fold(plan: Plan, unit: Unit, scale: np.ndarray) -> None:
    """Divide what the unit's writer writes by `scale` `[channels]`, and multiply the readers' weights by it."""
    if unit.writer is not None:
        layer = plan.layer(unit.writer)
        shape = [1] * len(layer.shape)
        shape[layer.output_axis] = -1
        plan.set_tensor(layer.weight, (array(plan, layer.weight) / scale.reshape(shape)).astype(np.float32))
    for each in unit.folds:
        _fold_constant(plan, each.node, each.at, scale[each.ids])
    if unit.inserted is not None:
        _insert(plan, unit, unit.inserted, scale)
    for name, channels in unit.readers.items():
        layer = plan.layer(name)
        by = scale[channels]
        if layer.op == "Conv":
            grouped = by.reshape(layer.group, -1)
            factor = np.repeat(grouped, layer.shape[0] // layer.group, axis=0)
            factor = factor.reshape(*layer.shape[:2], *(1 for _ in layer.shape[2:]))
            read = np.repeat(grouped, int(np.prod(layer.shape[2:])), axis=1)
        else:
            factor = by[:, None] if layer.output_axis == 1 else by[None, :]
            read = by[None, :]
        plan.set_tensor(layer.weight, (array(plan, layer.weight) * factor).astype(np.float32))
        moments = plan.moments(name)
        plan.set_moments(name, moments.scale(1 / read) if moments is not None else None)


def by_input(plan: Plan, reader: str) -> np.ndarray:
    """float32 `[inputs, outputs, places of the kernel]`."""
    layer = plan.layer(reader)
    weight = plan.weight(layer)
    if layer.op != "Conv":
        return (weight if layer.output_axis == 1 else weight.T)[:, :, None]
    outputs, inputs = layer.shape[0] // layer.group, layer.shape[1]
    grouped = weight.reshape(layer.group, outputs, inputs, -1).transpose(0, 2, 1, 3)
    return grouped.reshape(layer.group * inputs, outputs, -1)


def _insert(plan: Plan, unit: Unit, tensor: str, scale: np.ndarray) -> None:
    """A Mul in front of the readers, which all of them read."""
    layers = [plan.layer(name) for name in unit.readers]
    constant, output = f"{unit.name}/factor", f"{unit.name}/scaled"
    places = len(layers[0].shape) - 2
    plan.set_tensor(constant, (1 / scale).reshape(-1, *(1 for _ in range(places))).astype(np.float32))
    own = {node for layer in layers for node in layer.nodes}
    first = next(index for index, node in enumerate(plan.nodes) if node.name in own)
    for index, node in enumerate(plan.nodes):
        if node.name in own:
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            changed.input[0] = output
            plan.nodes[index] = changed
    plan.nodes.insert(first, helper.make_node("Mul", [tensor, constant], [output], name=output))


def _fold_constant(plan: Plan, node_name: str, at: int, divisor: np.ndarray) -> None:
    """Give the node a constant of its own: others may read the one it has."""
    index = next(i for i, node in enumerate(plan.nodes) if node.name == node_name)
    node = plan.nodes[index]
    old = node.input[at]
    before = array(plan, old)
    values = before / divisor
    while values.ndim > before.ndim and values.shape[0] == 1:
        values = values[0]  # a bias stays the vector that runtimes know how to fuse
    name = f"{node_name}/equalised{at}"
    plan.set_tensor(name, values.astype(np.float32))
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[at] = name
    plan.nodes[index] = changed
    for layer in list(plan.layers.values()):
        if node_name in layer.nodes and layer.bias == old and at == 2:
            plan.layers[layer.name] = replace(layer, bias=name)
