"""A page appears on the disk whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from autotune.errors import DiskError


def write_whole(text: str, path: Path, *, what: str) -> Path:
    """Write `text` to `path` and return it. `what` is named in the message.

    Raises `DiskError` where the file cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise DiskError(f"cannot write the {what} {path}: {error.strerror or error}; give another path") from error
    return path
