"""Large constants on disk: their raw bytes lie in a file without a name and are mapped into memory while they are read.

A model of a gigabyte must not be in memory several times over: as it was read, normalised, compressed, and as bytes of
an artifact. The file lies in the folder for temporary files (`TMPDIR`) and is gone with the last tensor that needs it,
also when the process is killed. In an `onnx.ModelProto` such a constant is a tensor with external data whose location
is the file's token, which nobody outside the process can know.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from onnx import TensorProto, helper

from autotune.errors import DiskError

LARGE = 1 << 20  # bytes: smaller constants stay in memory
_CHUNK = 1 << 20
_RAW = b"\x4a"  # tag of TensorProto.raw_data on the wire
# Types whose bytes are what numpy has in memory.
PLAIN = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16,
     TensorProto.UINT16, TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64}
)  # fmt: skip
_open: weakref.WeakValueDictionary[str, Scratch] = weakref.WeakValueDictionary()


class Scratch:
    """An open file that only grows."""

    def __init__(self) -> None:
        """Raises `DiskError`."""
        try:
            self.file = tempfile.TemporaryFile(prefix="hw-autotune-", buffering=0)  # noqa: SIM115 - closed with the last user
        except OSError as error:
            raise _disk(error) from error
        self.token = f"scratch-{secrets.token_hex(16)}"
        self._end = 0
        weakref.finalize(self, self.file.close)
        _open[self.token] = self

    def add(self, chunks: Iterable[bytes | memoryview], dims: Iterable[int], data_type: int) -> Stored:
        """Keep the raw bytes of a tensor. Raises `DiskError`."""
        begin = -(-self._end // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY  # what can be mapped alone
        try:
            length = 0
            for chunk in chunks:
                rest = memoryview(chunk).cast("B")
                while rest:
                    written = os.pwrite(self.file.fileno(), rest, begin + length)
                    rest, length = rest[written:], length + written
        except OSError as error:
            raise _disk(error) from error
        self._end = begin + length
        return Stored(self, begin, length, tuple(dims), data_type)

    def add_array(self, array: np.ndarray) -> Stored:
        """Keep an array of a type of `PLAIN`. Raises `DiskError`."""
        whole = np.ascontiguousarray(array)
        kind = helper.np_dtype_to_tensor_dtype(whole.dtype)
        return self.add([whole.reshape(-1).view(np.uint8).data], array.shape, kind)


@dataclass(frozen=True, eq=False)
class Stored:
    """One tensor in a scratch file. Two are the same only if they are the same object."""

    scratch: Scratch
    offset: int
    length: int
    dims: tuple[int, ...]
    data_type: int

    def array(self) -> np.ndarray:
        """The values, read only, mapped for as long as somebody holds the array."""
        mapped = mmap.mmap(self.scratch.file.fileno(), self.length, access=mmap.ACCESS_READ, offset=self.offset)
        array: np.ndarray = np.frombuffer(mapped, helper.tensor_dtype_to_np_dtype(self.data_type)).reshape(self.dims)
        return array

    def head(self, name: str) -> TensorProto:
        """The tensor without its values."""
        return TensorProto(dims=self.dims, data_type=self.data_type, name=name)

    def message(self, name: str) -> TensorProto:
        """The tensor in memory."""
        made = self.head(name)
        made.raw_data = b"".join(self.chunks())
        return made

    def stub(self, name: str) -> TensorProto:
        """A tensor that stands for this one inside this process; `stored` finds it again."""
        made = self.head(name)
        made.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.scratch.token), ("offset", self.offset), ("length", self.length)):
            made.external_data.add(key=key, value=str(value))
        return made

    def size(self, name: str) -> int:
        """Bytes of the tensor as a message."""
        return self.head(name).ByteSize() + len(_RAW + varint(self.length)) + self.length

    def write(self, name: str, stream: BinaryIO) -> None:
        """The bytes that `message(name).SerializeToString()` has, without having them in memory."""
        stream.write(self.head(name).SerializeToString(deterministic=True) + _RAW + varint(self.length))
        for chunk in self.chunks():
            stream.write(chunk)

    def digest(self) -> str:
        """sha256 of the raw bytes."""
        state = hashlib.sha256()
        for chunk in self.chunks():
            state.update(chunk)
        return state.hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """The raw bytes, piece by piece."""
        for begin in range(0, self.length, _CHUNK):
            yield os.pread(self.scratch.file.fileno(), min(_CHUNK, self.length - begin), self.offset + begin)


def stored(tensor: TensorProto) -> Stored | None:
    """What a `Stored.stub` stands for; None for every other tensor."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    fields = {entry.key: entry.value for entry in tensor.external_data}
    scratch = _open.get(fields.get("location", ""))
    if scratch is None:
        return None
    return Stored(scratch, int(fields["offset"]), int(fields["length"]), tuple(tensor.dims), tensor.data_type)


def is_storable(tensor: TensorProto) -> bool:
    """Whether a tensor in memory is large, and nothing but values under a name."""
    plain = tensor.data_type in PLAIN and tensor.HasField("raw_data") and tensor.ByteSize() >= LARGE
    return plain and not (tensor.doc_string or tensor.metadata_props or tensor.external_data)


def varint(number: int) -> bytes:
    """A length as protobuf writes it: 7 bits a byte, lowest first, the highest bit says that more follow."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def _disk(error: OSError) -> DiskError:
    return DiskError(
        f"scratch file for large weights in {tempfile.gettempdir()}: {error.strerror}; free space or set TMPDIR"
    )
