"""A control group that bounds memory, where this user may make one. Linux only; runs on the device; Python 3.9.

The kernel then ends what grows too far, whoever of the group it is and however fast, and nobody has to watch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

GROUP_PREFIX = "hw-autotune-"


class MemoryGroup:
    """One group. Its folder is locked for as long as this process lives, so that another one can tell it from a
    leftover. `label` is "cgroup v1" or "cgroup v2"."""

    def __init__(self, folder: Path, label: str, lock: int) -> None:
        self.label = label
        self._folder = folder
        self._lock = lock

    def enter(self) -> bool:
        """Move the calling process, which is a fork of the owner, into the group. False if that is not allowed."""
        os.close(self._lock)  # a fork shares the lock, and must not keep it
        try:
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            return False
        return True

    def kills(self) -> int:
        """How many processes of the group the kernel has ended for memory."""
        file = "memory.events" if self.label == "cgroup v2" else "memory.oom_control"
        for line in _lines(self._folder / file):
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def processes(self) -> list[int]:
        return [int(line) for line in _lines(self._folder / "cgroup.procs") if line.isdigit()]

    def remove(self) -> None:
        """End what is left in it and delete it. Never raises: what cannot be deleted, the next start finds."""
        _clear(self._folder, 1.0)
        os.close(self._lock)


def make_group(limit: int) -> MemoryGroup | None:
    """A new group that may hold `limit` bytes, or None where that cannot be had. Removes abandoned ones."""
    for parent, version in _places():
        with _turn(parent):
            for old in parent.glob(GROUP_PREFIX + "*"):
                _clear_if_abandoned(old)
            try:
                folder = Path(tempfile.mkdtemp(prefix=GROUP_PREFIX, dir=parent))
            except OSError:
                continue
            group = _furnish(folder, limit, version)
            if group is not None:
                return group
            _clear(folder, 0.0)
    return None


@contextlib.contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """Alone in `parent`: nobody takes a new group, which is not locked yet, for an abandoned one."""
    try:
        lock = os.open(parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        for _ in range(100):  # whoever holds it for longer means no good; a group that he deletes is not used then
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.01)
        yield
    finally:
        os.close(lock)


def _furnish(folder: Path, limit: int, version: int) -> MemoryGroup | None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if version == 2:
            # A sibling of our own group is not under its limit; it must not have more than that.
            (folder / "memory.max").write_text(str(min([limit, *_limits(folder)])))
            with contextlib.suppress(OSError):
                (folder / "memory.swap.max").write_text("0")  # else it would swap for minutes before it ends
            with contextlib.suppress(OSError):
                (folder / "memory.oom.group").write_text("1")
        else:
            (folder / "memory.limit_in_bytes").write_text(str(limit))
            with contextlib.suppress(OSError):
                (folder / "memory.memsw.limit_in_bytes").write_text(str(limit))
    except OSError:
        os.close(lock)
        return None
    return MemoryGroup(folder, f"cgroup v{version}", lock)


def _places() -> list[tuple[Path, int]]:
    """Folders in which a group for memory may be made, with the version of their hierarchy, best first."""
    own: dict[str, str] = {}
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found: list[tuple[Path, int]] = []
    for line in _lines(Path("/proc/self/mountinfo")):
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(",") + options.split(" ")[-1].split(","):
            mine = [path for names, path in own.items() if "memory" in names.split(",")]
            found.extend((place, 1) for path in mine for place in _below(point, root, path)[:1])
        elif kind == "cgroup2":
            # Below a group that has processes no memory can be handed out; next to it, it may.
            places = _below(point, root, own.get("", "/.."))
            found.extend((place, 2) for place in places[: 1 if places and _confined(places[0]) else 2])
    return found


def _below(point: str, root: str, path: str) -> list[Path]:
    """Our own group's folder under the mount and the one above it, if they can be seen from there."""
    if path.startswith("/.."):
        return []
    if root != "/":
        if path != root and not path.startswith(root + "/"):
            return [Path(point)]  # a container that sees its own group as the root
        path = path[len(root) :]
    place = Path(point) / path.lstrip("/")
    return [place] if place == Path(point) else [place, place.parent]


def _confined(folder: Path) -> bool:
    """Whether the group bounds more than memory: who leaves it for a sibling would measure another machine."""
    quota, cpus = _lines(folder / "cpu.max"), _lines(folder / "cpuset.cpus")
    return bool(quota and not quota[0].startswith("max")) or bool(cpus and cpus[0].strip())


def _limits(folder: Path) -> list[int]:
    """The limit of the group that this process is in, if it is next to `folder` and has one."""
    for line in _lines(Path("/proc/self/cgroup")):
        if line.startswith("0::"):
            for text in _lines(folder.parent / Path(line[3:]).name / "memory.max"):
                if text.isdigit():
                    return [int(text)]
    return []


def _clear_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _clear(folder, 1.0)
    except OSError:
        pass  # its owner lives
    finally:
        os.close(lock)


def _clear(folder: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        for line in _lines(folder / "cgroup.procs"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(line), signal.SIGKILL)
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # busy until its last process is reaped
            if time.monotonic() >= deadline:
                return
        time.sleep(0.01)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
