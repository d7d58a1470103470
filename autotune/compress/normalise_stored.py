"""Weights of a large model while it is normalised: read from the scratch file where somebody wants their values."""

from __future__ import annotations

from typing import cast

import onnx_ir as ir

from autotune.compress import scratch
from autotune.compress.scratch import PLAIN, Scratch, Stored


class _OnDisk(ir.LazyTensor):
    """A tensor that is mapped into memory at every reading."""

    __slots__ = ("stored",)

    def __init__(self, stored: Stored, name: str | None) -> None:
        self.stored = stored
        kind = ir.DataType(stored.data_type)
        super().__init__(lambda: ir.Tensor(stored.array(), dtype=kind), kind, ir.Shape(stored.dims), name=name)


def find_stored(model: ir.Model) -> None:
    """Make the graph's stubs (`Stored.stub`) tensors that can be read."""
    for value in model.graph.initializers.values():
        stub = value.const_value
        if isinstance(stub, ir.ExternalTensor):
            found = scratch.stored(ir.serde.serialize_tensor(stub))
            assert found is not None, "external data that is not ours was loaded before"
            value.const_value = _OnDisk(found, stub.name)


def put_away(model: ir.Model, into: Scratch) -> None:
    """Make stubs of all large weights of the graph; those that were computed on the way are written to disk first."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, _OnDisk):
            value.const_value = _stub(tensor.stored, value)
        elif (
            tensor is not None and tensor.nbytes >= scratch.LARGE and tensor.dtype.value in PLAIN and not _told(tensor)
        ):
            value.const_value = _stub(into.add_array(tensor.numpy()), value)


def _told(tensor: ir.TensorProtocol) -> bool:
    """Whether there is more to the tensor than its values."""
    return bool(tensor.doc_string or tensor.metadata_props)


def _stub(stored: Stored, value: ir.Value) -> ir.ExternalTensor:
    made = stored.stub(str(value.name))
    return cast(ir.ExternalTensor, ir.serde.deserialize_tensor(made))
