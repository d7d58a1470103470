"""Shapes and element types of all tensors of a graph, without reading its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import helper, shape_inference

from autotune.compress.tensors import heads

_READ = 512  # elements: constants up to this size may be shapes and are shown to the inference


def infer_shapes(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opsets: Mapping[str, int],
) -> dict[str, tuple[int | None, ...]]:
    """Tensor -> its shape; None is an axis that varies or is not known. Tensors of unknown rank are missing.

    `nodes` must be in topological order. Constants are in the answer too. Large ones are given by type and shape only,
    so a gigabyte of weights costs nothing.
    """
    found = _inferred(nodes, tensors, inputs, outputs, opsets)
    shapes: dict[str, tuple[int | None, ...]] = {name: tuple(tensor.dims) for name, tensor in heads(tensors)}
    for value in (*found.input, *found.value_info, *found.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    return shapes


def infer_types(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opsets: Mapping[str, int],
) -> dict[str, int]:
    """Tensor -> its element type (of `onnx.TensorProto`); tensors whose type is not known are missing.

    `nodes` must be in topological order.
    """
    found = _inferred(nodes, tensors, inputs, outputs, opsets)
    types = {name: tensor.data_type for name, tensor in heads(tensors)}
    for value in (*found.input, *found.value_info, *found.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    return types


def _inferred(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opsets: Mapping[str, int],
) -> onnx.GraphProto:
    graph = onnx.GraphProto(name="shapes")
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    # Shapes that the model declares for its outputs may be those of before an edit.
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in outputs)
    for name, tensor in heads(tensors):
        if math.prod(tensor.dims) <= _READ:
            graph.initializer.append(tensors[name])
        else:
            graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    return shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True).graph
