"""Structural checks of an untrusted model, before any C++ code or graph library sees it.

The onnx checker accepts a tensor of 2^40 elements with 64 bytes of data; these checks do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, defs

from autotune.errors import DataError

MAX_OPSET = 26  # of ai.onnx, what onnxruntime 1.31 loads
MAX_IR = 13
MAX_NAME = 80
_MAX_RANK = 64

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8, TensorProto.INT16: 16, TensorProto.INT32: 32, TensorProto.INT64: 64,
    TensorProto.UINT8: 8, TensorProto.UINT16: 16, TensorProto.UINT32: 32, TensorProto.UINT64: 64,
    TensorProto.BOOL: 8, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4, TensorProto.INT4: 4,
    # by number: onnx 1.21 does not know all of these names (FLOAT4E2M1, FLOAT8E8M0, UINT2, INT2)
    23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip

_TYPED_FIELDS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 32),
    TensorProto.COMPLEX64: ("float_data", 32),
    TensorProto.DOUBLE: ("double_data", 64),
    TensorProto.COMPLEX128: ("double_data", 64),
    TensorProto.INT64: ("int64_data", 64),
    TensorProto.UINT32: ("uint64_data", 32),
    TensorProto.UINT64: ("uint64_data", 64),
}


def show(name: str) -> str:
    """A name out of a model, safe to print: quoted, control characters escaped, cut to 80 characters."""
    return repr(name if len(name) <= MAX_NAME else name[:MAX_NAME] + "...")


def check_dims(dims: Sequence[int], name: str) -> None:
    """Raises `DataError` for negative dimensions or more of them than any model has."""
    if len(dims) > _MAX_RANK or any(dim < 0 for dim in dims):
        shape = list(dims[:8])
        raise DataError(f"tensor {show(name)} has a negative dimension or too many, {shape}; export it again")


def nbytes(tensor: TensorProto) -> int:
    """Bytes that the shape and type of a tensor ask for. Raises `DataError` for negative or absurd shapes."""
    check_dims(tensor.dims, tensor.name)
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise DataError(f"tensor {show(tensor.name)} has the unknown type {tensor.data_type}; export it again")
    return -(-math.prod(tensor.dims) * bits // 8)


def check_tensor(tensor: TensorProto) -> None:
    """The data of a tensor must be exactly as long as its shape says. Raises `DataError`."""
    if tensor.data_type == TensorProto.STRING:
        check_dims(tensor.dims, tensor.name)
        count, found = math.prod(tensor.dims), len(tensor.string_data)
        if count != found:
            raise DataError(_length(tensor, count, found, "strings"))
        return
    expected = nbytes(tensor)
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != expected:
            raise DataError(_length(tensor, expected, len(tensor.raw_data), "bytes"))
        return
    bits = _BITS[tensor.data_type]
    field, width = _TYPED_FIELDS.get(tensor.data_type, ("int32_data", max(bits, 8)))
    wanted = -(-expected * 8 // width)
    if len(getattr(tensor, field)) != wanted:
        raise DataError(_length(tensor, wanted, len(getattr(tensor, field)), "values"))


def _length(tensor: TensorProto, expected: int, found: int, unit: str) -> str:
    shape = list(tensor.dims[:8])
    return (
        f"tensor {show(tensor.name)} of shape {shape} needs {expected} {unit} and has {found}; "
        "the file is damaged, export or download it again"
    )


def check_versions(model: ModelProto) -> int:
    """The opset of ai.onnx that a model declares. Raises `DataError` if there is none."""
    if model.ir_version < 3:
        raise DataError(f"declares IR version {model.ir_version}; 3 is the oldest that is read, export it again")
    domains: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if domains.setdefault(domain, entry.version) != entry.version or entry.version < 1:
            raise DataError(f"declares no clear opset for the domain {show(domain)}; export it again")
    if "" not in domains:
        if any(node.domain in ("", "ai.onnx") for node in model.graph.node) or not domains:
            raise DataError("declares no opset for ai.onnx; export it again")
        return MAX_OPSET
    return domains[""]


def check_text(message: Message) -> None:
    """Every text field must be UTF-8; protobuf hands others over as bytes. Raises `DataError`."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            texts = [value] if isinstance(value, (str, bytes)) else value
            if any(isinstance(text, bytes) for text in texts):
                raise DataError(f"field {field.full_name} holds no text; the file is damaged, download it again")
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                check_text(part)


def check_graph(graph: GraphProto, opset: int, outer: frozenset[str] = frozenset(), where: str = "the graph") -> None:
    """Every name is defined once, every use has a definition, every node an operator and attributes of the right type.

    Order does not matter here (nodes are sorted later). Raises `DataError`.
    """
    initializers = _unique((t.name for t in graph.initializer), "initializer", where)
    initializers |= _unique((t.values.name for t in graph.sparse_initializer), "initializer", where)
    inputs = _unique((value.name for value in graph.input), "input", where)
    produced = _unique((name for node in graph.node for name in node.output if name), "node output", where)
    twice = sorted(produced & (initializers | inputs))
    if twice:
        raise DataError(f"{show(twice[0])} is defined twice in {where}; export the model again")
    known = outer | initializers | inputs | produced
    for node in graph.node:
        _check_node(node, opset, known)
    for output in graph.output:
        if output.name not in known:
            raise DataError(f"no node computes the output {show(output.name)} of {where}; export the model again")


def _check_node(node: NodeProto, opset: int, known: frozenset[str]) -> None:
    label = f"node {show(node.name or (node.output[0] if node.output else ''))}"
    if not node.op_type:
        raise DataError(f"{label} has no operator; export the model again")
    label += f" ({show(node.op_type)})"
    for name in node.input:
        if name and name not in known:
            raise DataError(f"{label} uses {show(name)}, which nothing defines; export the model again")
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) != len(names):
        raise DataError(f"{label} has the same attribute twice; export the model again")
    if node.domain in ("", "ai.onnx") and (schema := _schema(node.op_type, opset)) is not None:
        _check_against(schema, node, label)
    for attribute in node.attribute:
        graphs: Sequence[GraphProto] = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            check_graph(graph, opset, known, f"the {show(attribute.name)} of {label}")


def _check_against(schema: defs.OpSchema, node: NodeProto, label: str) -> None:
    """Numbers of inputs and outputs, names and types of attributes."""
    if not schema.min_input <= len(node.input) <= schema.max_input:
        raise DataError(
            f"{label} has {len(node.input)} inputs, which {schema.name} cannot have; export the model again"
        )
    if not schema.min_output <= len(node.output) <= schema.max_output:
        raise DataError(f"{label} has {len(node.output)} outputs, which it cannot have; export the model again")
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        kind: Any = None if known is None else known.type  # its stub lacks `value`
        if kind is None or kind.value != attribute.type:
            raise DataError(
                f"{label}: attribute {show(attribute.name)} is unknown or of the wrong type; export the model again"
            )
        for text in (attribute.s, *attribute.strings):
            text.decode()  # UnicodeDecodeError is reported like other text that is none


@cache
def _schema(op: str, opset: int) -> defs.OpSchema | None:
    """An operator's schema; None where onnx does not know the operator at this opset."""
    version = min(opset, defs.onnx_opset_version())
    return defs.get_schema(op, version, "") if defs.has(op, version) else None


def _unique(names: Iterable[str], what: str, where: str) -> frozenset[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen or not name:
            raise DataError(f"{what} {show(name)} of {where} has no name of its own; export the model again")
        seen.add(name)
    return frozenset(seen)
