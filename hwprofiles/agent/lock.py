"""The lock of a device: one timing at a time, for every process, user and coordinator. Runs on the device; Python 3.9.

`flock`s in a folder that all users of the device share; the kernel frees them when their process ends, however it
ends. Timing holds the device alone ("exclusive"); inference and profiling share it. Everybody passes through a
turnstile, which a waiting timing holds, so nothing new slips in before it.

Each exclusive claim has a token, a number that grows. Whoever times carries the token of his claim, and is refused
when a later one was given: a claim may be lost (a cut connection, a forced release) before its owner learns of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = "HW_AUTOTUNE_LOCKS"  # environment variable: where the locks are, if the usual places will not do

_RECORD = 4096  # bytes; written in one go over what was there, so a reader finds the old or the new one
_STICKY = stat.S_ISVTX | stat.S_IWOTH
_KILL_WAIT = 10.0  # seconds for the kernel to free what a killed holder had


class LockError(Exception):
    """The lock cannot be used, or not in this way. The message says why and what to do."""


class DeviceLock:
    """This process's claims on the device, by a name that the caller chooses for each."""

    def __init__(self) -> None:
        self._folder = lock_folder()
        self._claims: dict[str, _Claim] = {}

    def attempt(self, name: str, exclusive: bool, who: dict[str, Any]) -> dict[str, Any]:
        """Try to have the device, or go on trying: `got`, the `token` of an exclusive claim, else the `holder`.

        Never waits. A claim that did not get it keeps its place at the turnstile until `leave`.
        """
        if name not in self._claims:
            self._claims[name] = _Claim(self._folder, exclusive)
        claim = self._claims[name]
        if not claim.advance():
            return {"got": False, "token": None, "holder": self._record().get("holder")}
        token = None
        if exclusive:
            told = self._record().get("token")
            # The clock keeps tokens apart even if the folder is emptied between two of them.
            token = max((told if type(told) is int else 0) + 1, time.time_ns() // 1_000_000)
            process = {"process": os.getpid(), "account": _account(), "since": time.time()}
            self._write({"token": token, "holder": {**who, **process}})
        return {"got": True, "token": token, "holder": None}

    def leave(self, name: str) -> None:
        """Give the claim up; fine if there is none."""
        claim = self._claims.pop(name, None)
        if claim is None:
            return
        if claim.exclusive and claim.held:
            self._write({"token": self._record().get("token"), "holder": None})
        claim.close()

    @property
    def busy(self) -> bool:
        """Whether this process has or wants the device."""
        return bool(self._claims)

    def holder(self) -> dict[str, Any] | None:
        """Who holds the device alone right now: what it said of itself and `seconds` since; None if nobody does."""
        probe = _open(self._folder / "device.lock")
        try:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # whoever is in the record died; the kernel has freed its lock
        except BlockingIOError:
            holder = self._record().get("holder")
            if not isinstance(holder, dict):
                return {}  # it has just come and has not written yet, or cannot write
            since = holder.get("since")
            if isinstance(since, (int, float)):
                holder["seconds"] = max(0.0, time.time() - since)
            return holder
        finally:
            os.close(probe)

    def evict(self) -> str:
        """End the process that holds the device and make its token stale; what was done, in words. Raises LockError."""
        holder = self.holder()
        said = "nobody held the device"
        if holder is not None:
            process = holder.get("process")
            if type(process) is not int or not _holds(process, self._folder / "device.lock"):
                raise LockError(
                    f"the process that holds the device (account {holder.get('account', '?')}) cannot be reached from "
                    f"here; end it there, or release as that account or as root"
                )
            os.kill(process, signal.SIGKILL)
            said = f"ended process {process}"
        claim = _Claim(self._folder, True, straight=True)
        try:
            deadline = time.monotonic() + _KILL_WAIT
            while not claim.advance():
                if time.monotonic() >= deadline:
                    raise LockError(f"{said}, but somebody else has the device now; look again who")
                time.sleep(0.02)
            token = self._record().get("token")
            self._write({"token": max((token if type(token) is int else 0) + 1, time.time_ns() // 1_000_000)})
        finally:
            claim.close()
        return said

    def _record(self) -> dict[str, Any]:
        return _read(self._folder / "device.lock")

    def _write(self, record: dict[str, Any]) -> None:
        text = json.dumps(record).encode()[:_RECORD]
        file = _open(self._folder / "device.lock")
        try:
            os.pwrite(file, text.ljust(_RECORD), 0)
        finally:
            os.close(file)


class _Claim:
    """The way to the lock through the turnstile, and the lock."""

    def __init__(self, folder: Path, exclusive: bool, straight: bool = False) -> None:
        self.exclusive = exclusive
        self.held = False
        self._turn: int | None = None if straight else _open(folder / "device.turn")
        self._lock = _open(folder / "device.lock")
        self._through = straight

    def advance(self) -> bool:
        """A step without waiting; True when the lock is held."""
        try:
            if not self._through and self._turn is not None:
                fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._through = True
            if not self.held:
                fcntl.flock(self._lock, (fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                self.held = True
        except BlockingIOError:
            return False
        self._leave_turnstile()
        return True

    def close(self) -> None:
        self._leave_turnstile()
        os.close(self._lock)

    def _leave_turnstile(self) -> None:
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None


def is_current(token: int) -> bool:
    """Whether no later exclusive claim was given than the one with this token."""
    try:
        return watch(token)()
    except LockError:
        return False


def watch(token: int) -> Callable[[], bool]:
    """`is_current` for calling again and again: one small file is read each time. Raises LockError."""
    path = lock_folder() / "device.lock"

    def current() -> bool:
        try:
            return bool(_read(path).get("token") == token)
        except LockError:
            return False

    return current


def lock_folder() -> Path:
    """The folder that all users of this device share; made if it is not there.

    It must be the same for all of them, so what decides is the machine and not who asks: the first of /run/lock, /tmp
    and Android's /data/local/tmp in which everybody may write. Raises LockError.
    """
    given = os.environ.get(FOLDER)
    if given:
        return _shared(Path(given))
    for parent, name in ((Path("/run/lock"), "hw-autotune"), (Path("/tmp"), "hw-autotune-locks")):
        try:
            facts = parent.stat()
        except OSError:
            continue
        if facts.st_mode & _STICKY == _STICKY and os.access(parent, os.W_OK | os.X_OK):
            return _shared(parent / name)
    android = Path("/data/local/tmp")
    if os.access(android, os.W_OK | os.X_OK):
        return _shared(android / "hw-autotune-locks")
    return _shared(Path(tempfile.gettempdir()) / "hw-autotune-locks")  # the one account of a phone's application


def _shared(folder: Path) -> Path:
    try:
        with _open_to_all():
            folder.mkdir(0o1777, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # something that is no folder; told below
    except OSError as error:
        raise LockError(f"cannot make the folder for locks {folder}: {error.strerror}; set {FOLDER}") from error
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise LockError(f"{folder} is not a folder (a link is not followed); remove it or set {FOLDER}")
    if facts.st_uid not in (os.getuid(), 0) and facts.st_mode & _STICKY != _STICKY:
        raise LockError(f"{folder} belongs to {_account(facts.st_uid)} alone; make its mode 1777 or set {FOLDER}")
    return folder


@contextlib.contextmanager
def _open_to_all() -> Iterator[None]:
    """What is made meanwhile has the mode that was asked for, from the first moment on."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _open(path: Path) -> int:
    """The file for reading and writing, by everybody. Raises LockError.

    It is created apart from being opened: the kernel refuses O_CREAT on others' files in a sticky folder.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        for _ in range(3):
            try:
                file = os.open(path, flags)
                break
            except FileNotFoundError:
                pass
            try:
                with _open_to_all():
                    file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                break
            except FileExistsError:
                continue  # a neighbour was faster
        else:
            raise LockError(f"{path} comes and goes; set {FOLDER} to a folder of its own")
    except OSError as error:
        raise LockError(f"cannot open the lock {path}: {error.strerror}; remove it or set {FOLDER}") from error
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        os.close(file)
        raise LockError(f"{path} is not an ordinary file; remove it or set {FOLDER}")
    return file


def _read(path: Path) -> dict[str, Any]:
    """What is recorded; {} if that is nothing or, for longer than a moment, no JSON."""
    for _ in range(5):
        file = _open(path)
        try:
            text = os.pread(file, _RECORD, 0)
        finally:
            os.close(file)
        if not text.strip():
            return {}
        try:
            record = json.loads(text)
            return record if isinstance(record, dict) else {}
        except ValueError:
            time.sleep(0.01)
    return {}


def _holds(process: int, path: Path) -> bool:
    """Whether the process has this file open. A record may be anybody's: nothing is killed on its word alone."""
    wanted = path.stat()
    if process <= 1 or process == os.getpid():
        return False
    try:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            try:
                facts = entry.stat()
            except OSError:
                continue
            if (facts.st_dev, facts.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except OSError:
        pass
    return False


def _account(number: int | None = None) -> str:
    number = os.getuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
