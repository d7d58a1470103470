"""One node of a graph as the operators see it, and small conversions that many of them need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper

Tensor = torch.Tensor
Operator = Callable[..., "Tensor | tuple[Tensor, ...]"]  # inputs in order, None for one that is left out

DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
}


class Unsupported(Exception):
    """An operator is known but not this form of it; the message says what about it."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node with its attributes read. `opset` is that of the operator's domain."""

    op: str  # `Conv`, `com.microsoft.Gelu`
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: onnx.NodeProto, opsets: Mapping[str, int]) -> Node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        return cls(
            op=f"{domain}.{node.op_type}" if domain else node.op_type,
            name=node.name,
            opset=opsets.get(domain, 1),
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={a.name: _value(a) for a in node.attribute if a.type != onnx.AttributeProto.GRAPH},
        )

    def get(self, name: str, default: Any = None) -> Any:
        """Value of an attribute; text is decoded."""
        return self.attributes.get(name, default)

    def writes(self, position: int) -> bool:
        """Whether anybody wants the output at `position`."""
        return len(self.outputs) > position and bool(self.outputs[position])

    def only_first_output(self) -> None:
        """Raises `Unsupported` where another output than the first is wanted."""
        if any(self.outputs[1:]):
            raise Unsupported("more than one output")


Builder = Callable[[Node], Operator]


def simple(function: Operator) -> Builder:
    """An operator without attributes."""
    return lambda node: function


def numbers(tensor: Tensor | None) -> list[int] | None:
    """Whole numbers of an optional input: axes, shapes, sizes."""
    return None if tensor is None else [int(n) for n in tensor.reshape(-1).tolist()]


def dtype_of(kind: int) -> torch.dtype:
    """Raises `Unsupported` for a type that torch cannot compute with."""
    if kind not in DTYPES:
        raise Unsupported(f"type {TensorProto.DataType.Name(kind)}")
    return DTYPES[kind]


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [item.decode() for item in value]
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value
