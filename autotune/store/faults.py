"""What the database and the file system raise, as errors of ours that say where and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import exc

from autotune.errors import AutotuneError, DataError, DiskError, StoreLocked
from autotune.store.location import Location, redact

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_WORDS = ("disk is full", "disk i/o error", "readonly database", "unable to open", "no space left")
_BROKEN_WORDS = (
    "not a database",
    "malformed",
    "corrupt",
    "no such table",
    "no such column",
    "could not decode",
)


def disk_error(path: Path, error: OSError) -> DiskError:
    advice = "free some space" if error.errno in _NO_SPACE else "check that it is there and writable"
    return DiskError(f"cannot write {path}: {(error.strerror or str(error)).lower()}; {advice}, then run again")


@contextmanager
def translated(location: Location) -> Iterator[None]:
    """Turns what the database raises into `DiskError`, `StoreLocked` or `DataError`."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _translate(location, error) from error
    except exc.TimeoutError as error:
        raise StoreLocked(f"store {location} gave no connection in time; is another program using it?") from error


def _translate(location: Location, error: exc.DBAPIError) -> AutotuneError:
    cause = " ".join(redact(str(error.orig)).split())
    words = cause.lower()
    if "database is locked" in words or "lock timeout" in words:
        return StoreLocked(f"store {location} is locked by another program; wait for it or end it, then run again")
    if any(word in words for word in _DISK_WORDS):
        return DiskError(f"cannot write store {location}: {cause}; free some space or make it writable, then run again")
    if location.file is None and isinstance(error, exc.OperationalError):
        return DiskError(f"store {location} cannot be reached: {cause}; check that the database runs, then run again")
    if isinstance(error, exc.DatabaseError) and any(word in words for word in _BROKEN_WORDS):
        return DataError(f"store {location} is damaged or not an autotune store: {cause}; use another --store")
    return DataError(f"store {location} refused: {cause}")
