"""Model files and arrays on the device: by digest, bounded.

And a scratch folder that does not outlive its process for long.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class BlobCache:
    """Files named by their sha256. Several agents share the folder: files appear whole, by a rename.

    When they exceed `limit` bytes, those that were not used for longest go first.
    """

    def __init__(self, folder: Path) -> None:
        self.limit = 2 << 30
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hash: Any = None
        self._arriving = ""

    def find(self, digest: str) -> Path | None:
        """Where the file is, or None. Raises ValueError if `digest` is not a sha256 in lower-case hex."""
        path = self.folder / (_checked(digest) + ".onnx")
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def add(self, digest: str, offset: int, size: int, piece: bytearray, scratch: Path) -> None:
        """Take the next piece of a file of `size` bytes. The last one makes it visible, if the digest is right.

        Raises ValueError for pieces out of order or wrong bytes, OSError when the disk is full.
        """
        part = scratch / (_checked(digest) + ".part")
        if offset == 0:
            self._hash, self._arriving = hashlib.sha256(), digest
            part.write_bytes(b"")
            self._evict(size)
        if self._arriving != digest or part.stat().st_size != offset or offset + len(piece) > size:
            raise ValueError(f"a piece of {digest[:12]} arrived out of order")
        last = offset + len(piece) == size
        try:
            with part.open("ab") as file:
                file.write(piece)
                if last:  # a power cut must not leave a whole name with half of the bytes
                    file.flush()
                    os.fsync(file.fileno())
        except OSError:
            self._arriving = ""
            part.unlink(missing_ok=True)  # a full disk gets back what this took of it
            raise
        self._hash.update(piece)
        if not last:
            return
        if self._hash.hexdigest() != digest:
            part.unlink()
            raise ValueError(f"the bytes of {digest[:12]} changed on the way")
        part.replace(self.folder / (digest + ".onnx"))

    def _evict(self, coming: int) -> None:
        files = []
        for path in self.folder.glob("*.onnx"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue  # another agent was faster
            files.append((facts.st_mtime_ns, facts.st_size, path))
        total = coming + sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= size


class Scratch:
    """A private folder.

    Its lock dies with the process, so that the next agent can clear what a killed one left.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        clearing = os.open(parent, os.O_RDONLY)
        try:
            fcntl.flock(clearing, fcntl.LOCK_EX)  # else a neighbour clears our folder before we have locked it
            for old in parent.iterdir():
                _remove_if_abandoned(old)
            self.folder = Path(tempfile.mkdtemp(dir=parent))
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        finally:
            os.close(clearing)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # its owner lives
    finally:
        os.close(lock)


def _checked(digest: str) -> str:
    if not _DIGEST.match(digest):
        raise ValueError(f"{digest!r} is not a sha256")
    return digest
