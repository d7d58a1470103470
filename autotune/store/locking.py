"""One running coordinator per study. Kernel or database server free the lock when its holder dies."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from autotune.errors import StoreLocked
from autotune.store.faults import disk_error, translated
from autotune.store.location import Location


@contextmanager
def locked(location: Location, engine: sa.Engine) -> Iterator[None]:
    """Holds the study. Raises `StoreLocked`, naming the holder, when another run has it.

    PostgreSQL: a session advisory lock, which works across machines. Otherwise `flock` on a file beside the
    store; for other database servers that keeps out the runs of this machine only.
    """
    if engine.dialect.name == "postgresql":
        with _advisory(location, engine):
            yield
    else:
        with _flock(location):
            yield


@contextmanager
def _flock(location: Location) -> Iterator[None]:
    stem = location.file.name if location.file is not None else "store"
    path = location.folder / f"{stem}.{location.study}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refusal(location, _holder_in(path)) from error
        me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(me).encode(), 0)
        except OSError as error:
            raise disk_error(path, error) from error
        yield
    finally:
        os.close(descriptor)  # frees the lock; the file stays, as deleting it would let two runs in


def _holder_in(path: Path) -> str:
    try:
        holder: Any = json.loads(path.read_text() or "{}")
    except (OSError, ValueError):
        holder = {}
    if not isinstance(holder, dict) or "pid" not in holder:
        return "another process"
    if holder.get("pid") == os.getpid() and holder.get("host") == socket.gethostname():
        return f"this process (pid {os.getpid()})"
    return f"process {holder['pid']} on {holder.get('host', '?')}, since {holder.get('since', '?')}"


def _refusal(location: Location, holder: str) -> StoreLocked:
    return StoreLocked(
        f"study {location.study!r} in {location} is being run by {holder}; wait for it, end it, or use another --store"
    )


@contextmanager
def _advisory(location: Location, engine: sa.Engine) -> Iterator[None]:
    key = advisory_key(location.study)
    with translated(location):
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        with translated(location):
            name = f"autotune {location.study} pid {os.getpid()} on {socket.gethostname()}"
            connection.execute(sa.text("SELECT set_config('application_name', :name, false)"), {"name": name[:63]})
            taken = connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar_one()
            if not taken:
                raise _refusal(location, _advisory_holder(connection, key))
        yield
    finally:
        connection.invalidate()  # ends the session, and the lock with it, even if the connection is broken
        connection.close()


def advisory_key(study: str) -> int:
    """A signed 64-bit number out of the study's name; the lock is per database, so the name is enough."""
    return int.from_bytes(hashlib.sha256(f"autotune study {study}".encode()).digest()[:8], "big", signed=True)


def _advisory_holder(connection: sa.Connection, key: int) -> str:
    query = sa.text(
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "WHERE l.granted AND l.locktype = 'advisory' AND l.objsubid = 1 "
        "AND CAST(l.classid AS bigint) = :high AND CAST(l.objid AS bigint) = :low"
    )
    unsigned = key & 0xFFFFFFFFFFFFFFFF
    found = connection.execute(query, {"high": unsigned >> 32, "low": unsigned & 0xFFFFFFFF}).scalar()
    return str(found) if found else "another process"
