"""One connection to a host that later sessions share: they start in a fraction of the time.

It is a session like any other: a remote `cat` whose standard input is a pipe of this process, so that it ends with
this process, however that ends. Nothing depends on it: while there is none, each session connects by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

_CALM = 2.0  # seconds for the connection to end by itself
_LOOK = 10.0  # seconds to look for a connection of the user's own
_NAME = "hw-ssh-"
_YOUNG = 60.0  # seconds for a new folder to get its lock
_ROOM = 60  # characters of a folder's name: a socket's whole name has about a hundred


class Sharing:
    """Of one host. `base` is ssh with its options. With `wanted` false each session connects by itself.

    A connection that the user's own configuration keeps open (ControlPath) comes first: it may be the only way in,
    where a login asks for a second factor. The private folder also takes the logs of the sessions; it goes with this
    object or the process.
    """

    def __init__(self, base: Sequence[str], host: str, *, wanted: bool) -> None:
        self._base = tuple(base)
        self._host = host
        self._folder, held = _private_folder()
        self._socket = self._folder / "shared"
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._state: list[subprocess.Popen[bytes]] = []  # the shared connection, if there is one
        self._end = weakref.finalize(self, _end, self._state, self._folder, held, os.getpid())
        self._own = wanted and not _user_has_one(self._base, host)

    def options(self) -> list[str]:
        """For a session: go through the shared connection if it is there, alone otherwise."""
        own = ["-S", str(self._socket).replace("%", "%%")] if self._own else []
        return [*own, "-o", "ControlMaster=no"]

    def new_log(self) -> Path:
        """Where the next session may write what it has to say. Whoever reads it removes it."""
        return self._folder / f"log-{next(self._numbers)}"

    def ensure(self) -> None:
        """Begin the shared connection unless it is there. It is usable a moment later."""
        if not self._own:
            return
        with self._lock:
            if self.pid is not None:
                return
            while self._state:
                _close(self._state.pop())
            self._socket.unlink(missing_ok=True)
            lead = ["-S", str(self._socket).replace("%", "%%"), "-o", "ControlMaster=yes", "-o", "ControlPersist=no"]
            with contextlib.suppress(OSError):
                self._state.append(
                    subprocess.Popen(
                        [*self._base, *lead, "--", self._host, "exec cat"],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )

    @property
    def pid(self) -> int | None:
        """Of the process that holds the shared connection, if there is one."""
        return self._state[0].pid if self._state and self._state[0].poll() is None else None

    def close(self) -> None:
        """End the shared connection and remove the folder. Sessions that go through it end as well."""
        self._end()


def _user_has_one(base: Sequence[str], host: str) -> bool:
    try:
        found = subprocess.run(
            [*base, "-O", "check", "--", host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LOOK,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0


def _private_folder() -> tuple[Path, int]:
    """A folder for this user alone, and the descriptor whose lock tells others that its owner lives.

    Private, because whoever can open the socket has our access to the device.
    """
    usual = Path(tempfile.gettempdir())
    place = usual if len(str(usual)) < _ROOM else Path("/tmp")
    for old in place.glob(f"{_NAME}*"):  # of processes that were killed
        with contextlib.suppress(OSError):
            facts = old.stat()
            if facts.st_uid == os.geteuid() and facts.st_mtime < time.time() - _YOUNG:
                held = os.open(old, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(old, ignore_errors=True)
                finally:
                    os.close(held)
    folder = Path(tempfile.mkdtemp(prefix=_NAME, dir=place))
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    return folder, held


def _end(state: list[subprocess.Popen[bytes]], folder: Path, held: int, owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the process that has all this
    for process in state:
        _close(process)
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(_CALM)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
