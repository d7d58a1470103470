"""Frames: how parent and agent talk. Runs on both sides: Python 3.9, and numpy only where there are arrays.

A frame is `MAGIC, header length (uint32), payload length (uint64), header (UTF-8 JSON object), payload`, all
little endian. Arrays travel in the payload one after the other; the header's `arrays` lists name, type and
shape of each. Lengths are checked before anything is allocated, so a garbage prefix costs nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

MAGIC = b"HWP1"
PREFIX = struct.Struct("<4sIQ")
MAX_HEADER = 16 << 20  # bytes
MAX_PAYLOAD = 4 << 30  # bytes; the receiver may set a lower limit
MAX_DIMENSIONS = 32  # of an array; numpy before version 2 knows no more

_MOST_ELEMENTS = 1 << 40  # of an array, zeros among its dimensions taken as ones: numpy counts like that
_SHOWN = 60  # characters of a peer's text in a message

# What a tensor may be made of. Anything else (objects, ml_dtypes) has no stable spelling between two numpys.
_PLAIN = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOAT = ("float16", "float32", "float64", "complex64", "complex128")
PLAIN_TYPES = frozenset(_PLAIN + _FLOAT)


class FrameError(Exception):
    """These bytes are not a frame, or the frame says something impossible."""


class ArrayError(Exception):
    """This value cannot be sent as an array."""


def encode(header: Mapping[str, Any], payload_size: int = 0) -> bytes:
    """Prefix and header of a frame; the payload follows as it is."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_HEADER:
        raise FrameError(f"a header of {len(text)} bytes is over the limit of {MAX_HEADER}")
    return PREFIX.pack(MAGIC, len(text), payload_size) + text


def decode_prefix(prefix: bytes, max_payload: int = MAX_PAYLOAD) -> tuple[int, int]:
    """(header length, payload length). Raises FrameError on anything that no peer of ours would send."""
    magic, header_size, payload_size = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise FrameError(f"expected a frame, got {prefix[:16]!r}")
    if header_size > MAX_HEADER:
        raise FrameError(f"header length {header_size} is over the limit of {MAX_HEADER}")
    if payload_size > max_payload:
        raise FrameError(f"payload length {payload_size} is over the limit of {max_payload}")
    return header_size, payload_size


def decode_header(text: bytes, payload_size: int) -> dict[str, Any]:
    """The header, with its list of arrays checked against the payload's length."""
    try:
        header = json.loads(text)
    except ValueError as error:
        raise FrameError(f"the header is not JSON: {error}") from error
    except RecursionError as error:
        raise FrameError("the header is nested too deeply") from error
    if not isinstance(header, dict):
        raise FrameError("the header is not a JSON object")
    if "arrays" in header:
        check_arrays(header["arrays"], payload_size)
    return header


def pack_arrays(arrays: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[memoryview]]:
    """(`arrays` entry of the header, payload parts). Raises ArrayError for what is not a plain tensor."""
    if not arrays:
        return [], []  # the keeper of a lease works where there is no numpy
    import numpy as np

    specs: list[dict[str, Any]] = []
    parts: list[memoryview] = []
    for name, value in arrays.items():
        if isinstance(value, (dict, list)):
            raise ArrayError(f"{name!r} is a {type(value).__name__}, not a tensor")
        array = np.asarray(value)
        shape = list(array.shape)
        kind = array.dtype.name
        if array.dtype.kind in "UO":
            data = memoryview(_pack_text(name, array))
            kind = "str"
        elif kind in PLAIN_TYPES:
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            data = little.reshape(-1).view(np.uint8).data if little.size else memoryview(b"")
        else:
            raise ArrayError(f"{name!r} has elements of type {kind}, which cannot be sent")
        if len(shape) > MAX_DIMENSIONS:
            raise ArrayError(f"{name!r} has {len(shape)} dimensions; {MAX_DIMENSIONS} can be sent")
        specs.append({"name": name, "type": kind, "shape": shape, "bytes": data.nbytes})
        parts.append(data)
    return specs, parts


def unpack_arrays(specs: list[dict[str, Any]], payload: bytearray) -> dict[str, Any]:
    """Arrays by name. They share the payload's memory where they can and are writable.

    `specs` must have passed `check_arrays`. Raises FrameError for text that is none.
    """
    if not specs:
        return {}
    import numpy as np

    arrays: dict[str, Any] = {}
    view = memoryview(payload)
    start = 0
    for spec in specs:
        piece = view[start : start + spec["bytes"]]
        start += spec["bytes"]
        if spec["type"] == "str":
            arrays[spec["name"]] = _unpack_text(spec, bytes(piece))
        else:
            little = np.dtype(spec["type"]).newbyteorder("<")
            array = np.frombuffer(piece, dtype=little).reshape(spec["shape"])
            # An unaligned start would make every access slow, and some runtimes refuse it.
            aligned = array if array.flags.aligned else array.copy()
            arrays[spec["name"]] = aligned.astype(spec["type"], copy=False)
    return arrays


def check_arrays(specs: Any, payload_size: int) -> None:
    """Raise FrameError unless `specs` describes arrays that take exactly `payload_size` bytes."""
    if not isinstance(specs, list):
        raise FrameError("`arrays` is not a list")
    total = 0
    for spec in specs:
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            raise FrameError("an array without a name")
        name, size, kind = repr(spec["name"][:_SHOWN]), spec.get("bytes"), spec.get("type")
        elements = _elements(spec.get("shape"))
        if elements is None:
            raise FrameError(f"array {name} has an impossible shape")
        if type(size) is not int or not 0 <= size <= payload_size:
            raise FrameError(f"array {name} has an impossible size")
        if not isinstance(kind, str):
            raise FrameError(f"array {name} has no type")
        if kind != "str" and (kind not in PLAIN_TYPES or size != elements * _width(kind)):
            shown = repr(kind[:_SHOWN])
            raise FrameError(f"array {name}: {size} bytes do not hold {elements} elements of {shown}")
        total += size
    if total != payload_size:
        raise FrameError(f"{total} bytes of arrays are announced, {payload_size} of payload")


def _elements(shape: Any) -> int | None:
    """How many elements an array of this shape has; None if no array has it."""
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        return None
    room = 1
    for size in shape:
        if type(size) is not int or not 0 <= size <= _MOST_ELEMENTS:
            return None
        room *= size or 1
        if room > _MOST_ELEMENTS:
            return None
    return 0 if 0 in shape else room


def _width(kind: str) -> int:
    """Bytes per element: the type's name ends in its bits."""
    return 1 if kind == "bool" else int(kind.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8


def _pack_text(name: str, array: Any) -> bytes:
    items = array.reshape(-1).tolist()
    if not all(isinstance(item, str) for item in items):
        raise ArrayError(f"{name!r} is an array of objects that are not text")
    return json.dumps(items).encode()


def _unpack_text(spec: dict[str, Any], piece: bytes) -> Any:
    import numpy as np

    name, elements = repr(spec["name"][:_SHOWN]), _elements(spec["shape"])
    try:
        items = json.loads(piece)
    except ValueError as error:
        raise FrameError(f"text array {name} is not JSON: {error}") from error
    except RecursionError as error:
        raise FrameError(f"text array {name} is nested too deeply") from error
    if not isinstance(items, list) or len(items) != elements:
        raise FrameError(f"text array {name} does not have {elements} items")
    if not all(isinstance(item, str) for item in items):
        raise FrameError(f"text array {name} holds something else than text")
    return np.array(items, dtype=object).reshape(spec["shape"])
