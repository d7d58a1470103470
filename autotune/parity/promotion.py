"""A node whose float32 and float16 become float64: what the model says, without the rounding of computing it.

Quantised types stay as they are: the rounding that they bring is part of the model. So do 8-bit floats.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, numpy_helper

_NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NARROW_NAMES = frozenset({"float32", "float16", "bfloat16"})
# Attributes that name the type of a result. (`stash_type` names one inside of a result, which is float64 anyway.)
_TYPES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})


def widened(array: np.ndarray) -> np.ndarray:
    """Narrow floats as float64, anything else as it is."""
    return array.astype(np.float64) if array.dtype.name in _NARROW_NAMES else array


def is_narrow(array: object) -> bool:
    """Whether an array has lost what float64 would have kept."""
    return isinstance(array, np.ndarray) and array.dtype.name in _NARROW_NAMES


def promoted(node: NodeProto) -> NodeProto:
    """A copy of a node that computes in float64, with its subgraphs."""
    copy = NodeProto()
    copy.CopyFrom(node)
    _promote_node(copy)
    return copy


def captured(node: NodeProto) -> set[str]:
    """Names that the subgraphs of a node read from outside of themselves."""
    return set().union(*(_free(graph) for graph in _graphs(node)))


def has_body(node: NodeProto) -> bool:
    """Whether a node runs graphs of its own: If, Loop, Scan."""
    return any(True for _ in _graphs(node))


def _promote_node(node: NodeProto) -> None:
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        _promote_constant(node)
    if node.op_type == "ConstantOfShape" and not node.attribute:
        value = AttributeProto(name="value", type=AttributeProto.TENSOR)
        value.t.CopyFrom(numpy_helper.from_array(np.zeros(1), ""))
        node.attribute.append(value)
    for attribute in node.attribute:
        if attribute.name in _TYPES and attribute.i in _NARROW:
            attribute.i = TensorProto.DOUBLE
        if attribute.HasField("t"):
            _promote_tensor(attribute.t)
        for tensor in attribute.tensors:
            _promote_tensor(tensor)
    for graph in _graphs(node):
        _promote_graph(graph)


def _promote_constant(node: NodeProto) -> None:
    for attribute in list(node.attribute):
        if attribute.name not in ("value_float", "value_floats"):
            continue
        value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        node.attribute.remove(attribute)
        tensor = AttributeProto(name="value", type=AttributeProto.TENSOR)
        tensor.t.CopyFrom(numpy_helper.from_array(np.array(value, np.float64), ""))
        node.attribute.append(tensor)


def _promote_graph(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _promote_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _promote_type(value.type)
    for node in graph.node:
        _promote_node(node)


def _promote_type(kind: TypeProto) -> None:
    if kind.HasField("tensor_type") and kind.tensor_type.elem_type in _NARROW:
        kind.tensor_type.elem_type = TensorProto.DOUBLE
    elif kind.HasField("sequence_type"):
        _promote_type(kind.sequence_type.elem_type)
    elif kind.HasField("optional_type"):
        _promote_type(kind.optional_type.elem_type)


def _promote_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(widened(numpy_helper.to_array(tensor)), tensor.name))


def _graphs(node: NodeProto) -> Iterable[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _free(graph: GraphProto) -> set[str]:
    own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    read: set[str] = set()
    for node in graph.node:
        own.update(node.output)
        read.update(node.input)
        read |= captured(node)
    read.update(value.name for value in graph.output)  # a subgraph may hand on what it did not make
    return read - own - {""}
