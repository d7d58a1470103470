"""The constants of a graph by name. Those of a large model lie in a scratch file and are in memory while they are used.

To everybody who reads or writes it this is a mapping of `onnx.TensorProto`. What is read from disk is a new message at
every access; who only wants to know the shape asks for the `head`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import BinaryIO

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.compress import scratch
from autotune.compress.scratch import Scratch, Stored


class Tensors(MutableMapping[str, onnx.TensorProto]):
    """Constants by name, in order. `spill`: large ones that are put in go to disk, into a file of this table."""

    def __init__(self, held: Mapping[str, onnx.TensorProto | Stored], *, spill: bool) -> None:
        self._held = dict(held)
        self._spill = spill
        self._scratch: Scratch | None = None

    def __getitem__(self, name: str) -> onnx.TensorProto:
        held = self._held[name]
        return held.message(name) if isinstance(held, Stored) else held

    def __setitem__(self, name: str, tensor: onnx.TensorProto) -> None:
        """Raises `DiskError`."""
        if self._spill and tensor.name == name and scratch.is_storable(tensor):
            self._held[name] = self._file().add([tensor.raw_data], tensor.dims, tensor.data_type)
        else:
            self._held[name] = tensor

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __copy__(self) -> Tensors:
        return self.only(self._held)

    def only(self, names: Mapping[str, object] | set[str]) -> Tensors:
        """A table of those of the names that are here, in this order; nothing is copied."""
        return Tensors({name: held for name, held in self._held.items() if name in names}, spill=self._spill)

    def put(self, name: str, array: np.ndarray) -> None:
        """Put an array in, without a message in memory where it goes to disk. Raises `DiskError`."""
        if self._spill and array.nbytes >= scratch.LARGE and array.dtype in _PLAIN:
            self._held[name] = self._file().add_array(array)
        else:
            self._held[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)

    def head(self, name: str) -> onnx.TensorProto:
        """The tensor; without its values where these are on disk. Raises `KeyError`."""
        held = self._held[name]
        return held.head(name) if isinstance(held, Stored) else held

    def array(self, name: str) -> np.ndarray:
        """The values, read only. Raises `KeyError`."""
        held = self._held[name]
        array: np.ndarray = held.array() if isinstance(held, Stored) else numpy_helper.to_array(held)
        return array

    def digest(self, name: str) -> str:
        """sha256 of the raw bytes. Raises `KeyError`."""
        held = self._held[name]
        return held.digest() if isinstance(held, Stored) else hashlib.sha256(held.raw_data).hexdigest()

    def size(self, name: str) -> int:
        """Bytes of the tensor as a message. Raises `KeyError`."""
        held = self._held[name]
        return held.size(name) if isinstance(held, Stored) else held.ByteSize()

    def write(self, name: str, stream: BinaryIO) -> None:
        """The tensor as a message, `size` bytes. Raises `KeyError`, and what `stream` raises."""
        held = self._held[name]
        if isinstance(held, Stored):
            held.write(name, stream)
        else:
            stream.write(held.SerializeToString(deterministic=True))

    def is_same(self, name: str, other: Tensors) -> bool:
        """Whether the other table has not only an equal tensor under the name but this one."""
        return name in self._held and self._held[name] is other._held.get(name)

    def sizes(self, *, on_disk: bool | None = None) -> dict[int, int]:
        """Bytes of each tensor, by an identity that tables with the same tensor share; of those alone that are on disk,
        or in memory, where that is said."""
        return {
            id(held): self.size(name)
            for name, held in self._held.items()
            if on_disk is None or isinstance(held, Stored) is on_disk
        }

    def stored(self) -> Iterator[str]:
        """Names of those that are on disk."""
        return (name for name, held in self._held.items() if isinstance(held, Stored))

    def _file(self) -> Scratch:
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch


def heads(tensors: Mapping[str, onnx.TensorProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Name and tensor of each; without values where these are on disk."""
    for name in tensors:
        yield name, tensors.head(name) if isinstance(tensors, Tensors) else tensors[name]


_PLAIN = frozenset(helper.tensor_dtype_to_np_dtype(kind) for kind in scratch.PLAIN)
