"""The artifact folder: files under the sha256 of their bytes. What is there under a name is whole."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from autotune.errors import DataError
from autotune.store.faults import disk_error

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def path_of(folder: Path, digest: str) -> Path:
    """Raises `DataError` for anything but a sha256: digests come from a store, which may be damaged."""
    if not _DIGEST.fullmatch(digest):
        raise DataError(f"artifact {digest!r} is not named by a sha256; the store is damaged")
    return folder / f"{digest}.onnx"


def write(folder: Path, data: bytes) -> str:
    """Puts `data` on the disk and gives its digest. Raises `DiskError`; never leaves half a file."""
    digest = digest_of(data)
    write_whole(path_of(folder, digest), data)
    return digest


def write_pieces(folder: Path, produce: Callable[[BinaryIO], object]) -> tuple[str, int]:
    """Puts what `produce` writes to a stream on the disk, without ever having it in memory as a whole; its digest and
    size. Raises `DiskError`, and what `produce` raises; never leaves half a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _part(folder) as (stream, part):
            hashing = _Hashing(stream)
            produce(cast(BinaryIO, hashing))
            digest = hashing.state.hexdigest()
            size = stream.tell()
            path = path_of(folder, digest)
            if not (path.exists() and path.stat().st_size == size and _file_digest(path) == digest):
                _finish(stream, part, path)
    except OSError as error:
        raise disk_error(folder, error) from error
    return digest, size


def write_whole(path: Path, data: bytes) -> None:
    """Puts `data` on the disk as `path`, unless the same is there already. Raises `DiskError`; never leaves half a
    file.
    """
    try:
        if path.exists() and path.stat().st_size == len(data) and _is_same(path, data):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError as error:
        raise disk_error(path, error) from error


def read(folder: Path, digest: str) -> bytes:
    """Raises `DataError` when the file is gone or its bytes are not those of its name."""
    path = path_of(folder, digest)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"artifact {path} cannot be read: {reason}; run the trial again to build it") from error
    if digest_of(data) != digest:
        raise DataError(f"artifact {path} is damaged: its bytes are not those of its name; delete it and run again")
    return data


def _replace(path: Path, data: bytes) -> None:
    """Write beside it, to the disk, then rename, then the folder to the disk: after a power cut all or
    nothing.
    """
    with _part(path.parent) as (stream, part):
        stream.write(data)
        _finish(stream, part, path)


@contextmanager
def _part(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file without a name of its own yet; gone at the end unless it got one."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream, part
    finally:
        part.unlink(missing_ok=True)


def _finish(stream: BinaryIO, part: Path, path: Path) -> None:
    """To the disk and under its name."""
    stream.flush()
    os.fsync(stream.fileno())
    part.chmod(0o644)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class _Hashing:
    """A stream that takes the sha256 of what is written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.state = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.state.update(data)
        return self.stream.write(data)


def _is_same(path: Path, data: bytes) -> bool:
    """Whether the file has these bytes, compared piece by piece."""
    with path.open("rb") as stream:
        return all(stream.read(_PIECE) == data[at : at + _PIECE] for at in range(0, len(data), _PIECE))


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(folder: Path, *, older_than: float = 3600.0) -> None:
    """Removes what writers that were killed left behind: parts that nobody has touched for `older_than`
    seconds.
    """
    now = time.time()
    for part in folder.glob(".*.part"):
        try:
            if now - part.stat().st_mtime > older_than:
                part.unlink()
        except OSError:
            continue  # another run was faster, or it may not be removed: it is in nobody's way
