"""A process and all it has started: find them, weigh them. Linux only; runs on the device; Python 3.9."""

from __future__ import annotations

import os
import time

_PAGE = os.sysconf("SC_PAGE_SIZE")
_REST = 1.0  # seconds between two searches of /proc, or more where a search takes long:
_SHARE = 2000  # one part in so many of the time may go into searching


def descendants(root: int) -> list[int]:
    """Children, grandchildren and so on of `root`, zombies included. Empty where there is no /proc."""
    parents: dict[int, int] = {}
    try:
        names = os.listdir("/proc")  # noqa: PTH208  (pathlib costs three times as much)
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            text = _read("/proc/" + name + "/stat")
            if text is not None:
                # The command's name is in brackets and may hold anything, brackets and spaces too.
                parents[int(name)] = int(text.rpartition(b")")[2].split()[1])
    found, level = [], {root}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found.extend(sorted(level))
    return found


class Scale:
    """Weighs everything that `root` has started, `root` itself not.

    It is asked many times a second while a neighbour process is being timed, so files stay open and the whole of
    /proc is searched rarely: in between, new processes are found in the kernel's lists of children.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._sizes: dict[int, int] = {}  # process -> its open /proc/PID/statm
        self._children: dict[int, int] = {}  # process -> its open list of children, where the kernel has such lists
        self._next_search = 0.0
        self._own = _open(f"/proc/{root}/task/{root}/children")

    def resident(self) -> int:
        """Bytes of resident memory of them all together. Pages that they share count once for each."""
        now = time.monotonic()
        if now >= self._next_search:
            for found in descendants(self._root):
                self._add(found)
            after = time.monotonic()
            self._next_search = after + max(_REST, _SHARE * (after - now))
        elif self._own is not None:
            self._add_listed(self._own)
        total = 0
        for process in list(self._sizes):
            listed = self._children.get(process)
            if listed is not None:
                self._add_listed(listed)
            total += self._weigh(process)
        return total

    def _weigh(self, process: int) -> int:
        try:
            return int(os.pread(self._sizes[process], 128, 0).split()[1]) * _PAGE
        except (OSError, IndexError):  # it is gone; a new process of that number would have another file
            for files in (self._sizes, self._children):
                file = files.pop(process, None)
                if file is not None:
                    os.close(file)
            return 0

    def _add_listed(self, file: int) -> None:
        try:
            text = os.pread(file, 4096, 0)
        except OSError:
            return
        for name in text.split():
            self._add(int(name))

    def _add(self, process: int) -> None:
        if process in self._sizes:
            return
        size = _open(f"/proc/{process}/statm")
        if size is None:
            return
        self._sizes[process] = size
        children = _open(f"/proc/{process}/task/{process}/children")
        if children is not None:
            self._children[process] = children


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _read(path: str) -> bytes | None:
    file = _open(path)
    if file is None:
        return None
    try:
        return os.read(file, 4096)
    except OSError:
        return None
    finally:
        os.close(file)
