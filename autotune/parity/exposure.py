"""Copies of a model that give intermediate results as outputs, a bounded number of bytes at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from autotune.parity.reference import Reference, Step

CHUNK = 64 << 20  # bytes of intermediate results that one inference gives back
_UNKNOWN = 1 << 20  # bytes that a tensor of unknown size counts
_PLAIN = frozenset(["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
                    "float32", "float64"])  # fmt: skip
_CHANGES_OF_FORM = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})  # belong to the layer they come from
_PRODUCTS = frozenset(
    ["Conv", "ConvTranspose", "MatMul", "Gemm", "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
     "FusedConv", "FusedMatMul"]
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What the tensors of one inference look like: bytes on a target, and those that cannot be sent."""

    bytes: Mapping[str, int]
    hidden: frozenset[str]

    @classmethod
    def of_values(cls, types: Mapping[str, tuple[str, int]]) -> Sizes:
        """From (type, elements) of each tensor as the reference has it, where floats are twice as wide."""
        sizes = {n: count * (4 if kind == "float64" else np.dtype(kind).itemsize) for n, (kind, count) in types.items()
                 if kind in _PLAIN}  # fmt: skip
        return cls(sizes, frozenset(types.keys() - sizes.keys()))

    @classmethod
    def inferred(cls, model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> Sizes:
        """From the shapes that follow from those of the inputs, where there is no reference to look at."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for value in copy.graph.input:
            if value.name in feed:
                value.type.tensor_type.shape.Clear()
                for size in feed[value.name].shape:
                    value.type.tensor_type.shape.dim.add().dim_value = size
        del copy.graph.value_info[:]
        sizes, hidden = {}, set()
        for value in onnx.shape_inference.infer_shapes(copy).graph.value_info:
            kind = value.type.tensor_type
            known = {int(t) for t in onnx.helper.get_all_tensor_dtypes()}
            if not value.type.HasField("tensor_type") or (kind.elem_type and kind.elem_type not in known):
                hidden.add(value.name)
                continue
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else None
            if dtype is not None and dtype.name not in _PLAIN:
                hidden.add(value.name)
            elif dtype is not None and kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                sizes[value.name] = dtype.itemsize * int(np.prod([d.dim_value for d in kind.shape.dim], dtype=np.int64))
        return cls(sizes, frozenset(hidden))


@dataclass(frozen=True)
class Chunk:
    """Some consecutive nodes, and what a copy of the model shows for them."""

    steps: tuple[Step, ...]
    exposed: tuple[str, ...]  # beside the model's own outputs


def everything(reference: Reference, sizes: Sizes) -> frozenset[str]:
    """All results that are no constants."""
    return frozenset(name for step in reference.steps for name in step.writes) - sizes.hidden


def seams(reference: Reference, sizes: Sizes) -> frozenset[str]:
    """Results between kernels, which can be shown without stopping most fusions: levels, and what products read."""
    producers = {name: step for step in reference.steps for name in step.writes}
    found: set[str] = set()
    for step in reference.steps:
        op = step.node.op_type
        if ("Quantize" in op and not op.startswith("Dequantize")) or op.startswith("QLinear"):
            found.update(step.writes)
        if op in _PRODUCTS and step.node.input:
            source = producers.get(step.node.input[0])
            if source is not None and source.node.op_type != "DequantizeLinear":
                found.add(step.node.input[0])
    return frozenset(found) - sizes.hidden


def chunks(reference: Reference, shown: frozenset[str], sizes: Sizes, *, limit: int = CHUNK) -> list[Chunk]:
    """Cut the nodes so that no copy shows more than about `limit` bytes.

    A node's inputs are shown together with its outputs, so that both come from one and the same run.
    """
    result: list[Chunk] = []
    steps: list[Step] = []
    exposed: dict[str, None] = {}
    for step in reference.steps:
        new = [n for n in (*sorted(step.reads), *step.writes) if n in shown]
        total = sum(sizes.bytes.get(n, _UNKNOWN) for n in {*exposed, *new})
        if steps and total > limit:
            result.append(Chunk(tuple(steps), tuple(exposed)))
            steps, exposed = [], {}
        steps.append(step)
        exposed.update(dict.fromkeys(new))
    return [*result, Chunk(tuple(steps), tuple(exposed))] if steps else result


def write_exposed(model: onnx.ModelProto, exposed: Iterable[str], path: Path) -> Path:
    """Write the model with `exposed` as further outputs, in one file. Types are left to the runtime."""
    outputs = list(model.graph.output)
    have = {value.name for value in outputs}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in exposed if name not in have)
    try:
        path.write_bytes(model.SerializeToString())
    finally:
        del model.graph.output[len(outputs) :]
    return path


def shapes_of(values: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Type and number of elements of each array; a sequence has no type."""
    return {n: (v.dtype.name, v.size) if isinstance(v, np.ndarray) else ("sequence", 0) for n, v in values.items()}


def layer_names(model: onnx.ModelProto, reference: Reference) -> dict[int, str]:
    """Number of a node -> name of the layer it belongs to, by the rules of `autotune.compress.inspect_names`.

    In an artifact of ours a layer's constants are called LAYER/part, and the layer's name is taken from them.
    """
    import onnx_ir as ir

    from autotune.compress.inspect_names import clean, layer_name, node_name

    graph = ir.from_proto(model).graph
    nodes = list(graph)
    parts: dict[str, str] = {}
    for tensor in model.graph.initializer:
        head, slash, tail = tensor.name.rpartition("/")
        if slash and tail in ("weight", "scale", "packed", "levels", "half"):
            parts[tensor.name] = head
    for proto in model.graph.node:  # a weight that is expanded or dequantised in the graph
        owner = next((parts[n] for n in proto.input if n in parts), None)
        if owner is not None:
            expands = proto.op_type == "DequantizeLinear"
            parts.update({n: owner for n in proto.output if expands or n in reference.constants})
    names: dict[int, str] = {}
    makers: dict[str, str] = {}  # tensor -> layer that makes it
    for step in reference.steps:
        ours = next((parts[n] for n in step.node.input if n in parts), None)
        node = nodes[step.number]
        weight = next((v for v in node.inputs[1:2] if v is not None and v.is_initializer()), None)
        if ours is not None:
            names[step.number] = ours
        elif weight is not None and weight.name and step.node.op_type in (*_PRODUCTS, "Gather"):
            names[step.number] = layer_name(node, weight)
        elif step.node.op_type in _CHANGES_OF_FORM and makers.keys() & step.node.input[:1]:
            names[step.number] = makers[step.node.input[0]]
        else:
            names[step.number] = node_name(node) or clean(step.node.op_type)
        makers.update(dict.fromkeys(step.writes, names[step.number]))
    return names
