"""Read untrusted model files: bytes, external data, digests. Nothing in a model file is believed before it is checked.

External data may only be regular files inside the model's own folder: no links (a hard link can reach any file of the
user), no absolute or `..` paths, and every offset and length is compared with the file and with the tensor.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from autotune.compress import scratch
from autotune.compress.ingest_checks import nbytes, show
from autotune.compress.scratch import PLAIN, Scratch, stored
from autotune.errors import DataError

MAX_BYTES = 2**31 - 1  # a protobuf message cannot be larger
_PIECE = 1 << 20  # bytes that are read at a time
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})

# First bytes of what people give instead of an ONNX file: (offset, bytes, what it is, what to do).
_OTHER_FORMATS = (
    (4, b"ORTM", "an ORT-format model", "give the .onnx file it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it with tf2onnx"),
    (0, b"PK\x03\x04", "a zip or PyTorch archive", "load it in Python and give the torch.nn.Module"),
    (0, b"\x80\x02", "a Python pickle", "load it in Python and give the torch.nn.Module"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the real file with `git lfs pull`"),
    (0, b"\x89HDF", "an HDF5 file (Keras)", "convert it with tf2onnx"),
    (0, b"<!DOCTYPE", "a web page", "download the model again"),
    (0, b"<html", "a web page", "download the model again"),
)


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most 2 GiB. Raises `DataError`."""
    with open_file(path) as file:
        try:
            return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror}); check the disk") from error


def open_file(path: Path) -> BinaryIO:
    """A regular file of 1 byte to 2 GiB, open for reading. Raises `DataError`."""
    try:
        # NONBLOCK: opening a named pipe must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DataError("there is no such file; check the path") from error
    except PermissionError as error:
        raise DataError("may not be read; check its permissions") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be opened ({error}); check the path") from error
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise DataError("is a folder; give the .onnx file in it")
        if not stat.S_ISREG(status.st_mode):
            raise DataError("is not a regular file; copy the model to one")
        if status.st_size > MAX_BYTES:
            raise DataError(too_large(status.st_size))
        if not status.st_size:
            raise DataError("is empty; export or download the model again")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def parse(data: bytes) -> ModelProto:
    """Parse the bytes of an ONNX file. Raises `DataError` for anything else, naming it where it is known."""
    check_magic(data)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise DataError("is not an ONNX file or is cut off; export or download the model again") from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise DataError("holds no graph, so it is not an ONNX model; export or download it again")
    return model


def check_magic(data: bytes) -> None:
    """Raises `DataError` where the first bytes of a file are those of another format that people give."""
    for offset, magic, what, advice in _OTHER_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            raise DataError(f"is {what}, not ONNX; {advice}")


def load_external(model: ModelProto, folder: Path | None, large: Scratch | None = None) -> str:
    """Read external data of every tensor into the model; returns a sha256 over the files used, "" if there are none.

    `folder` is that of the model file, None for a model that was given in memory. Where `large` is given, large
    initializers are copied there and not into memory; tensors that are there already stay. Raises `DataError`,
    `DiskError`.
    """
    initializers = len(model.graph.initializer)
    outside = [(index < initializers, tensor) for index, tensor in enumerate(tensors(model)) if is_outside(tensor)]
    external = [(top, tensor) for top, tensor in outside if not is_in(large, tensor)]
    if not external:
        return ""
    if folder is None:
        raise DataError("keeps weights in external files; give the path of its file instead of the object")
    total, files = 0, set()
    for top, tensor in external:
        location, offset, length = _entry(tensor)
        total += length
        if total > MAX_BYTES:
            raise DataError(too_large(total))
        pieces = _slice(folder, location, offset, length, show(tensor.name))
        plain = tensor.data_type in PLAIN and not (tensor.doc_string or tensor.metadata_props)
        if large is not None and top and plain and length >= scratch.LARGE:
            tensor.CopyFrom(large.add(pieces, tensor.dims, tensor.data_type).stub(tensor.name))
        else:
            tensor.raw_data = b"".join(pieces)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        files.add(location)
    state = hashlib.sha256()
    for location in sorted(files, key=str):
        state.update(str(location).encode("utf-8", "surrogateescape") + b"\0")
        with os.fdopen(_open_inside(folder, location), "rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()


def _entry(tensor: TensorProto) -> tuple[PurePosixPath, int, int]:
    """Location, offset and length of an external tensor, in bytes."""
    name = show(tensor.name)
    fields = {entry.key: entry.value for entry in tensor.external_data}
    unknown = sorted(fields.keys() - _EXTERNAL_KEYS)
    if unknown or len(fields) != len(tensor.external_data):
        raise DataError(f"tensor {name}: external data with unknown or repeated keys {unknown}; export it again")
    numbers = {}
    for key in ("offset", "length"):
        text = fields.get(key, "0")
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise DataError(f"tensor {name}: {key} {show(text)} of its external data is no size; export it again")
        numbers[key] = int(text)
    expected = nbytes(tensor)
    if "length" in fields and numbers["length"] != expected:
        raise DataError(
            f"tensor {name}: its shape needs {expected} bytes, its external data says {numbers['length']}; export again"
        )
    return _safe_location(fields.get("location", ""), name), numbers["offset"], expected


def _safe_location(location: str, name: str) -> PurePosixPath:
    path = PurePosixPath(location)
    drive = len(location) > 1 and location[1] == ":"
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in location or "\0" in location or drive:
        raise DataError(
            f"tensor {name}: external data at {show(location)}, "
            "but only plain relative paths inside the model's folder are read; export it again"
        )
    return path


def _open_inside(folder: Path, location: PurePosixPath) -> int:
    """A file descriptor of a regular, unlinked file under `folder`, opened without following any link."""
    where = f"external data {show(str(location))}"
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = -1
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in location.parts[:-1]:
            inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = inner
        file = os.open(location.name, flags, dir_fd=handle)
    except FileNotFoundError as error:
        raise DataError(f"{where} is missing; put it beside the model file") from error
    except OSError as error:
        raise DataError(
            f"{where} cannot be read or is a link ({error.strerror}); copy the real file beside the model"
        ) from error
    finally:
        if handle >= 0:
            os.close(handle)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(file)
        raise DataError(f"{where} is a hard link or no regular file; copy the real file beside the model")
    return file


def external_bytes(model: ModelProto) -> int:
    """What the external data of a model say that they take, bytes. Raises `DataError`."""
    return sum(_entry(tensor)[2] for tensor in tensors(model) if is_outside(tensor))


def is_outside(tensor: TensorProto) -> bool:
    """Whether a tensor's values are not in its message."""
    return tensor.data_location == TensorProto.EXTERNAL


def is_in(large: Scratch | None, tensor: TensorProto) -> bool:
    """Whether a tensor stands for one that was copied to `large` while the model was read. Stubs of other scratch files
    are external data that is not there: a model file must not reach them."""
    found = stored(tensor)
    return found is not None and found.scratch is large


def _slice(folder: Path, location: PurePosixPath, offset: int, length: int, name: str) -> Iterator[bytes]:
    with os.fdopen(_open_inside(folder, location), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset + length > size:
            raise DataError(
                f"tensor {name}: needs bytes {offset} to {offset + length} of {show(str(location))}, "
                f"which has {size}; the file is cut off, copy it again"
            )
        file.seek(offset)
        while length:
            piece = file.read(min(length, _PIECE))
            if not piece:
                raise DataError(f"tensor {name}: {show(str(location))} became shorter while it was read; read it again")
            length -= len(piece)
            yield piece


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers, attributes, subgraphs and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("g"):
        yield from _graph_tensors(attribute.g)
    for graph in attribute.graphs:
        yield from _graph_tensors(graph)


def too_large(size: int) -> str:
    """What is told of a model beyond 2 GiB."""
    return (
        f"has {size / 2**30:.1f} GiB, and 2 GiB is the most that one ONNX model in memory can have; use a smaller model"
    )


def digest_of(own: str, external: str) -> str:
    """From the sha256 of the file; with external data, sha256 over the digests of the file and of the data."""
    return own if not external else hashlib.sha256(f"{own}\n{external}".encode()).hexdigest()


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Canonical bytes of a model in memory. Raises `DataError` when it does not fit into one message."""
    size = model.ByteSize()
    if size > MAX_BYTES:
        raise DataError(too_large(size))
    return bytes(model.SerializeToString(deterministic=True))
