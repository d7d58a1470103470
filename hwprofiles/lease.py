"""One measurement on a device at a time, across processes.

NOTE: the lease is taken per operation, not for as long as a device is open. Two studies on one machine then
take turns trial by trial, and neither starves. Timing holds the device alone (`exclusive`); inference and
profiling share it, since they do not care about each other but would disturb a timing. A waiting timing gets
its turn: everybody passes through a turnstile, which the waiting timing holds, so no new inference slips in
before it.

Locks are `flock`s, which the kernel frees when the holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hwprofiles.errors import HardwareError, TargetBusy


class Lease:
    """The lock of one physical device, for all processes of this user on this machine.

    `device` is the transport's name of the device. `wait` bounds the time to queue, in seconds.
    """

    def __init__(self, device: str, *, wait: float = 900.0) -> None:
        folder = runtime_folder()
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in device)
        self._device = device
        self._wait = wait
        self._turnstile = folder / f"{safe}.turn"
        self._lock = folder / f"{safe}.lock"
        self._holder = folder / f"{safe}.holder"

    @contextlib.contextmanager
    def exclusive(self, what: str) -> Iterator[None]:
        """Nobody else uses the device meanwhile. Raises `TargetBusy`, naming the holder."""
        with self._locked(fcntl.LOCK_EX):
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "what": what, "since": time.time()}
            _write(self._holder, json.dumps(holder))
            try:
                yield
            finally:
                self._holder.unlink(missing_ok=True)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """No timing happens meanwhile; others that share may. Raises `TargetBusy`, naming the holder."""
        with self._locked(fcntl.LOCK_SH):
            yield

    def holder(self) -> str | None:
        """Who holds the device alone right now, in words; None if nobody does."""
        try:
            facts = json.loads(self._holder.read_text())
            if facts["host"] == socket.gethostname() and not _lives(int(facts["pid"])):
                return None  # it was killed before it could clean up; the kernel has freed its lock
            seconds = max(0.0, time.time() - float(facts["since"]))
            return f"process {facts['pid']} on {facts['host']} for {seconds:.0f} s ({facts['what']})"
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        deadline = time.monotonic() + self._wait
        with self._file(self._lock) as lock:
            with self._file(self._turnstile) as turnstile:
                self._acquire(turnstile, fcntl.LOCK_EX, deadline)
                self._acquire(lock, kind, deadline)
            yield

    @contextlib.contextmanager
    def _file(self, path: Path) -> Iterator[int]:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int, kind: int, deadline: float) -> None:
        pause = 0.005
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TargetBusy(
                        f"device {self._device!r} is in use by {self.holder() or 'another process'}; "
                        f"waited {self._wait:g} s. Wait for it or stop it"
                    ) from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)


def runtime_folder() -> Path:
    """This user's folder for locks: under XDG_RUNTIME_DIR, else in the folder for temporary files, private.

    Raises `HardwareError` if somebody else has put something there in our name.
    """
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and os.access(given, os.W_OK | os.X_OK):
        folder = Path(given) / "hw-autotune"
    else:
        folder = Path(tempfile.gettempdir()) / f"hw-autotune-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise HardwareError(f"{folder} is not a folder of this user; remove it or set XDG_RUNTIME_DIR")
    return folder


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
