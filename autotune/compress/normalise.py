"""Bring a checked model into the one form that everything after it works on.

Opset 21 where that is certain, weights as initializers that are no graph inputs, every node with a unique name,
constant chains before weights and BatchNormalization after Conv folded, shapes inferred. The meaning never changes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import GraphProto, ModelProto, NodeProto, inliner, numpy_helper
from onnx_ir.passes import common
from onnx_ir.passes.common import naming

from autotune.compress.ingest_checks import MAX_IR, check_dims, show
from autotune.compress.normalise_fold import fold_batchnorm, fold_weights
from autotune.compress.normalise_opset import fit_opset, infer_shapes
from autotune.compress.normalise_stored import find_stored, put_away
from autotune.compress.scratch import Scratch
from autotune.errors import DataError

WORKING_IR = 10
MODULE_METADATA = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")


def normalise(proto: ModelProto) -> tuple[ir.Model, tuple[str, ...]]:
    """The normalised form of a model whose structure was checked, and notes on what was done.

    `proto` may be changed. Raises `DataError` for a cycle or for operators newer than onnxruntime's.
    """
    _densify(proto)
    _free_axes(proto)
    with _quiet():
        model = ir.serde.deserialize_model(proto)
        find_stored(model)
        _sort(model)
        common.RemoveInitializersFromInputsPass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        _resolve_identities(model.graph)
        infer_shapes(model)
        notes = [note] if (note := fit_opset(model)) else []
        fold_weights(model)
        fold_batchnorm(model)
        common.RemoveUnusedNodesPass()(model)
        common.NameFixPass(_OutputNames())(model)
        infer_shapes(model)
    if model.ir_version > MAX_IR:
        notes.append(f"IR version {model.ir_version} was lowered to {MAX_IR}")
    model.ir_version = min(MAX_IR, max(WORKING_IR, model.ir_version))
    return model, tuple(notes)


def serialise(model: ir.Model, scratch: Scratch | None = None) -> ModelProto:
    """The ONNX form, checked by onnx, without exporters' notes (paths, stack traces). Where `scratch` is given, large
    weights lie there, and `model` must not be read any more.

    Raises `DataError` when the checker refuses it, `DiskError`.
    """
    # The checker wants a shape on every output and does not look at it; onnxruntime does without one.
    unknown = [value for value in model.graph.outputs if value.shape is None]
    for value in unknown:
        value.shape = ir.Shape([])
    try:
        with _quiet():
            common.CheckerPass()(model)
            if scratch is not None:
                put_away(model, scratch)
            proto = ir.serde.serialize_model(model)
    except onnx.checker.ValidationError as error:
        raise DataError(f"is not valid ONNX: {first_line(error)}; export the model again") from error
    finally:
        for value in unknown:
            value.shape = None
    for output in proto.graph.output:
        if output.name in {value.name for value in unknown}:
            output.type.tensor_type.ClearField("shape")
    _strip(proto)
    return proto


class _OutputNames(naming.NameGenerator):
    """Names for nodes without one: their first output's, which is unique and the same at every load."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or next((output.name for output in node.outputs if output.name), "node")

    def generate_value_name(self, value: ir.Value) -> str:
        return value.name or "value"


def _densify(model: ModelProto) -> None:
    """Sparse initializers become dense ones: the graph library does not keep them, and onnxruntime does the same."""
    for sparse in model.graph.sparse_initializer:
        check_dims(sparse.dims, sparse.values.name)
        count = math.prod(sparse.dims)
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        name = sparse.values.name
        if count * values.itemsize > 2**31 - 1:
            raise DataError(f"sparse tensor {show(name)} has the shape {list(sparse.dims)[:8]}; store it dense")
        if indices.dtype != np.int64 or (indices.ndim != 1 and indices.shape[1:] != (len(sparse.dims),)):
            raise DataError(f"sparse tensor {show(name)} has indices of the wrong form; export the model again")
        flat = indices if indices.ndim == 1 else indices @ _strides(list(sparse.dims))
        if flat.shape != values.shape or (flat < 0).any() or (flat >= count).any():
            raise DataError(f"sparse tensor {show(name)} has indices outside its shape; export the model again")
        dense = np.zeros(count, dtype=values.dtype)
        dense[flat] = values
        model.graph.initializer.append(numpy_helper.from_array(dense.reshape(tuple(sparse.dims)), name))
    model.graph.ClearField("sparse_initializer")


def _free_axes(model: ModelProto) -> None:
    """An axis of size -1, as some exporters write one that varies, becomes an axis without a size."""
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if dim.HasField("dim_value") and dim.dim_value < 0:
                dim.ClearField("dim_value")


def _strides(dims: list[int]) -> np.ndarray:
    return np.array([math.prod(dims[axis + 1 :]) for axis in range(len(dims))], dtype=np.int64)


def inline_functions(model: ModelProto) -> ModelProto:
    """Inline local functions, so that layers inside them are layers of the graph."""
    return inliner.inline_local_functions(model) if model.functions else model


def _sort(model: ir.Model) -> None:
    try:
        model.graph.sort()
    except ValueError as error:
        raise DataError("has a cycle in its graph; export the model again") from error


def _resolve_identities(graph: ir.Graph) -> None:
    """Use a constant itself instead of its Identity copies (exporters tie weights that way).

    Narrower than onnx-ir's pass, which also lets a branch of an If return a value of the outer graph, and onnxruntime
    does not load that.
    """
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Identity" and node.domain == "" and node.inputs else None
        if source is not None and source.is_initializer() and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnx-ir logs a traceback where shape inference gives up, which is an ordinary case here."""
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _strip(model: ModelProto) -> None:
    """Remove doc strings and exporters' metadata from nodes and values; the model's own metadata stay."""
    _strip_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            _strip_node(node)


def strip_local_metadata(model: ModelProto) -> None:
    """Remove stack traces and other text about the exporting machine, and keep what names the modules."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        kept = [(entry.key, entry.value) for entry in node.metadata_props if entry.key in MODULE_METADATA]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
    del model.graph.metadata_props[:]


def _strip_graph(graph: GraphProto) -> None:
    _strip_entries(graph.metadata_props)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _strip_entries(value.metadata_props)
        value.ClearField("doc_string")
    for tensor in graph.initializer:
        _strip_entries(tensor.metadata_props)
        tensor.ClearField("doc_string")
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: NodeProto) -> None:
    node.ClearField("doc_string")
    _strip_entries(node.metadata_props)
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            _strip_graph(graph)


def _strip_entries(entries: Any) -> None:
    kept = [entry for entry in entries if not (entry.key.startswith("pkg.") or entry.key == "namespace")]
    if len(kept) != len(entries):
        copies = [(entry.key, entry.value) for entry in kept]
        del entries[:]
        for key, value in copies:
            entries.add(key=key, value=value)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with the second where the first only announces it; at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return "".join(c for c in text[:300] if c.isprintable())
