"""Large models: their weights go from the file to a scratch file, and never into memory as a whole.

The file is walked as protobuf writes it, from one length to the next. Large initializers are copied out and their place
in the message is taken by stubs (`scratch.Stored.stub`); what is left is parsed and checked like any other model. A
file that is not laid out as every exporter does it is left to the ordinary parser, which also names what is wrong.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from autotune.compress import scratch
from autotune.compress.ingest_checks import nbytes
from autotune.compress.ingest_files import check_magic, external_bytes, parse
from autotune.compress.scratch import PLAIN, Scratch, varint
from autotune.errors import DataError

LARGE_MODEL = 256 << 20  # bytes of file and external data from which weights are kept on disk
_GRAPH, _INITIALIZER, _RAW = 7, 5, 9  # fields of ModelProto, GraphProto, TensorProto
_TENSOR_FIELDS = frozenset({1, 2, 8, _RAW})  # dims, data_type, name: a tensor with others stays where it is
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_PIECE = 1 << 20


class _Field(NamedTuple):
    number: int
    wire: int
    begin: int  # of the tag
    payload: int  # where the value begins; of `_BYTES` behind the length
    end: int


class _Unusual(Exception):
    """The bytes are not laid out as expected."""


def take(file: BinaryIO, size: int) -> tuple[ModelProto, Scratch | None]:
    """Parse the `size` bytes of an ONNX file; where its weights are large, they lie in the scratch file that is given
    back, and so should its external data. Raises `DataError`, `DiskError`.
    """
    if size >= LARGE_MODEL:
        check_magic(file.read(64))
        large = Scratch()
        rest = _outline(file, size, large)
        if rest is not None:
            return parse(rest), large
    file.seek(0)
    model = parse(file.read(size))
    return model, Scratch() if external_bytes(model) >= LARGE_MODEL else None


def _outline(file: BinaryIO, size: int, large: Scratch) -> bytes | None:
    """The model without its large initializers; None where it must be parsed as it is."""
    try:
        fields = list(_fields(file, 0, size))
        if [field.number for field in fields].count(_GRAPH) != 1:
            return None
        return b"".join(
            _message(_GRAPH, _graph(file, field, large)) if field.number == _GRAPH else _raw(file, field)
            for field in fields
        )
    except (_Unusual, DecodeError):
        return None


def _graph(file: BinaryIO, graph: _Field, large: Scratch) -> bytes:
    out = io.BytesIO()
    for field in _fields(file, graph.payload, graph.end):
        is_large = field.number == _INITIALIZER and field.wire == _BYTES and field.end - field.payload >= scratch.LARGE
        stub = _stub(file, field, large) if is_large else None
        out.write(_raw(file, field) if stub is None else _message(_INITIALIZER, stub.SerializeToString()))
    return out.getvalue()


def _stub(file: BinaryIO, tensor: _Field, large: Scratch) -> TensorProto | None:
    """What stands for an initializer whose values were copied out; None where it is not one of the plain kind."""
    fields = list(_fields(file, tensor.payload, tensor.end))
    values = [field for field in fields if field.number == _RAW]
    if len(values) != 1 or values[0].wire != _BYTES or not {field.number for field in fields} <= _TENSOR_FIELDS:
        return None
    head = TensorProto.FromString(b"".join(_raw(file, field) for field in fields if field.number != _RAW))
    length = values[0].end - values[0].payload
    try:
        fits = head.data_type in PLAIN and isinstance(head.name, str) and nbytes(head) == length >= scratch.LARGE
    except DataError:
        fits = False  # told by the checks of all tensors
    if not fits:
        return None
    file.seek(values[0].payload)
    return large.add(_pieces(file, length), head.dims, head.data_type).stub(head.name)


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length:
        piece = file.read(min(length, _PIECE))
        if not piece:
            raise _Unusual
        length -= len(piece)
        yield piece


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[_Field]:
    while begin < end:
        file.seek(begin)
        tag = _number(file)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length = _number(file)
            payload = file.tell()
            after = payload + length
        else:
            payload = file.tell()
            if wire == _VARINT:
                _number(file)
                after = file.tell()
            elif wire in (_FIXED64, _FIXED32):
                after = payload + (8 if wire == _FIXED64 else 4)
            else:
                raise _Unusual
        if after > end or not number:
            raise _Unusual
        yield _Field(number, wire, begin, payload, after)
        begin = after


def _number(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise _Unusual
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise _Unusual


def _raw(file: BinaryIO, field: _Field) -> bytes:
    """A field as it stands in the file."""
    file.seek(field.begin)
    data = file.read(field.end - field.begin)
    if len(data) != field.end - field.begin:
        raise _Unusual
    return data


def _message(number: int, data: bytes) -> bytes:
    """A message as a field of another one."""
    return varint(number << 3 | _BYTES) + varint(len(data)) + data
