"""The weight bank: each layer is compressed once per choice, on disk and in memory; a trial only assembles."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from autotune.errors import DiskError
from autotune.layers import Layer
from autotune.techniques.rounding import NEAREST, Rounding

BANK_VERSION = 1  # raise it when packing changes: old entries are then never read again

Pack = Callable[[Layer, str, np.ndarray, Rounding], Sequence[onnx.TensorProto]]
Make = Callable[[], Sequence[onnx.TensorProto]]


class WeightBank:
    """Packed weights by (layer, choice, weight bytes, dialect, rounding with its moments).

    Entries are content addressed, so never stale.

    `folder` None keeps everything in memory. At most `memory` bytes are kept in memory beside the disk.
    """

    def __init__(self, dialect: str, pack: Pack, folder: Path | None, *, memory: int = 256 << 20) -> None:
        self._dialect, self._pack, self._folder, self._limit = dialect, pack, folder, memory
        self._entries: OrderedDict[str, tuple[onnx.TensorProto, ...]] = OrderedDict()
        self._bytes = 0

    def get(
        self, layer: Layer, choice: str, weight: Callable[[], np.ndarray], digest: str, rounding: Rounding = NEAREST
    ) -> tuple[onnx.TensorProto, ...]:
        """The layer's tensors under `choice`; packs them the first time. `weight` reads the layer's weight, of whose
        bytes `digest` is the sha256.

        Raises `DiskError`, and what packing raises.
        """
        key: tuple[object, ...] = (self._dialect, layer.name, layer.op, layer.shape, choice, digest, *rounding.key())
        return self.recall(key, lambda: self._pack(layer, choice, weight(), rounding))

    def recall(self, parts: Sequence[object], make: Make) -> tuple[onnx.TensorProto, ...]:
        """What `make` returns, made once per `parts`, which name all that it depends on. Raises `DiskError`."""
        key = hashlib.sha256(repr((BANK_VERSION, *parts)).encode()).hexdigest()
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        tensors = self._read(key)
        if tensors is None:
            tensors = tuple(make())
            self._write(key, tensors)
        self._remember(key, tensors)
        return tensors

    def _remember(self, key: str, tensors: tuple[onnx.TensorProto, ...]) -> None:
        self._entries[key] = tensors
        self._bytes += sum(t.ByteSize() for t in tensors)
        while self._folder is not None and self._bytes > self._limit and len(self._entries) > 1:
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= sum(t.ByteSize() for t in dropped)

    def _read(self, key: str) -> tuple[onnx.TensorProto, ...] | None:
        if self._folder is None:
            return None
        try:
            data = (self._folder / key).read_bytes()
            graph = onnx.GraphProto.FromString(data)
        except (FileNotFoundError, DecodeError):
            return None  # not there yet, or torn by a power cut: pack it again
        return tuple(graph.initializer)

    def _write(self, key: str, tensors: Sequence[onnx.TensorProto]) -> None:
        if self._folder is None:
            return
        path = self._folder / key
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(onnx.GraphProto(initializer=tensors).SerializeToString())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise DiskError(
                f"weight bank {self._folder}: {error.strerror}; free space or choose another store"
            ) from error
