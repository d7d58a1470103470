"""Ends what it has started: all of it, at once, whatever happens. Runs on the device; Python 3.9, stdlib only.

`python PROGRAM FOLDER MEMORY_LIMIT` starts this first. It forks; the fork becomes the worker, and the rest
stays and watches. No connection ends a remote program by itself (ssh and adb leave it running), so the end of stdin
is the signal that every transport can give: the supervisor polls stdin for it without reading, and then kills the
worker and all descendants, stopped, detached or hanging in native code. It also holds the worker to its memory
limit (bytes; 0: none): by a control group where one may be made, else by looking every 20 ms.

Exit code: the worker's own (254 for 255), 128 + n for signal n, or one of `hwprofiles.agent.codes`.

The worker is forked and not executed anew: under an emulator or a private loader, `sys.executable` cannot be
started again.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

from hwprofiles.agent import codes
from hwprofiles.agent.memory_group import MemoryGroup, make_group
from hwprofiles.agent.processes import Scale, descendants

GUARD = "HW_AUTOTUNE_MEMORY_GUARD"  # tells the worker what holds it to its limit

_LINUX = sys.platform == "linux"
_WATCH = 0.02  # seconds between two looks at the memory, where nobody else looks
_IDLE = 1.0  # seconds between two looks at whether the parent lives, where stdin cannot tell
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# A hang-up is reported without being asked for; the half-closed socket of an sshd must be asked for.
_HANGUP = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)


def main() -> None:
    """Returns in the worker. The supervisor itself ends here."""
    limit = int(sys.argv[2])
    parent, own = os.getppid(), os.getpid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    group = make_group(limit) if _LINUX and limit else None
    told_read, told_write = os.pipe()
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    # A signal that came before its handler would end the supervisor alone and leave the rest.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    worker = os.fork()
    if worker == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for end in (told_read, wake_read, wake_write):
            os.close(end)
        _become_worker(own, limit, group, told_write)
        return
    os.close(told_write)
    guarded = os.read(told_read, 1) == b"1"
    os.close(told_read)
    if group is not None and not guarded:
        group.remove()
        group = None
    os._exit(_Supervisor(worker, parent, limit, group, wake_read, wake_write).run())


def _become_worker(supervisor: int, limit: int, group: MemoryGroup | None, told: int) -> None:
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(codes.ENDED)  # it died before we asked
    guarded = group is not None and group.enter()
    os.write(told, b"1" if guarded else b"0")
    os.close(told)
    watched = "watchdog" if _LINUX and limit else "none"
    os.environ[GUARD] = group.label if group is not None and guarded else watched
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # to be the first that goes when the machine's memory runs out
        Path("/proc/self/oom_score_adj").write_text("800")
    with contextlib.suppress(RuntimeError, ValueError):  # whoever started it may have closed stderr
        faulthandler.enable()


class _Supervisor:
    """What stays: waits for the end of the worker, of stdin, of the parent or of the memory it may have."""

    def __init__(
        self, worker: int, parent: int, limit: int, group: MemoryGroup | None, wake_read: int, wake_write: int
    ) -> None:
        self._worker = worker
        self._parent = parent
        self._limit = limit
        self._group = group
        self._wake = wake_read
        self._scale = Scale(os.getpid()) if _LINUX and limit and group is None else None
        self._signalled = False
        self._kernel_kills = _kernel_kills()
        self._status: int | None = None  # of the worker, as `waitpid` gives it
        # Replies end when the worker closes them: this copy must not keep the line open.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        for number in (*_SIGNALS, signal.SIGCHLD):
            signal.signal(number, self._note)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def run(self) -> int:
        """The exit code, when nothing is left."""
        try:
            code = self._watch()
        finally:
            self._end_all()
        if code == 128 + signal.SIGKILL:
            code = self._explain_kill(code)
        if self._group is not None:
            self._group.remove()
        return code

    def _watch(self) -> int:
        line = select.poll()
        line.register(0, _HANGUP & ~select.POLLNVAL)
        line.register(self._wake, select.POLLIN)
        pause = _WATCH if self._scale is not None else _IDLE
        while True:
            self._reap()
            if self._status is not None:
                return _code(self._status)
            if self._signalled or os.getppid() != self._parent:
                return codes.ENDED
            if self._scale is not None:
                resident = self._scale.resident()
                if resident > self._limit:
                    self._say(f"the process grew to {resident >> 20} MiB, over its limit of {self._limit >> 20} MiB")
                    return codes.OUT_OF_MEMORY
            for descriptor, event in line.poll(pause * 1000):
                if descriptor == 0 and event & _HANGUP:
                    return codes.ENDED
                if descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)

    def _reap(self) -> bool:
        """Collect whoever has ended. False when no child is left at all."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if process == 0:
                return True
            if process == self._worker:
                self._status = status

    def _end_all(self) -> None:
        """Kill until there is no child. Orphans become ours (subreaper), so none without a child means none at all."""
        own, pause = os.getpid(), 0.002
        while True:
            if not _LINUX:
                with contextlib.suppress(OSError):
                    os.killpg(self._worker, signal.SIGKILL)
            found = {*descendants(own), *([self._worker] if self._status is None else [])}
            if self._group is not None:
                found |= set(self._group.processes())
            for process in found - {own}:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            if not self._reap():
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.1)  # what hangs in a driver cannot be killed; it is no reason to burn a core

    def _explain_kill(self, code: int) -> int:
        """Nobody but the kernel kills a worker: for its own memory or the machine's."""
        if self._group is not None and self._group.kills():
            self._say(f"the process grew over its limit of {self._limit >> 20} MiB")
            return codes.OUT_OF_MEMORY
        # The count of the whole machine also grows when somebody else's process dies; a group counts its own.
        if self._group is None and _kernel_kills() > self._kernel_kills:
            self._say("the kernel killed the process: the machine is out of memory")
            return codes.OUT_OF_MEMORY
        return code

    def _note(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self._signalled = True

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.set_blocking(2, False)  # nobody may be reading any more
            os.write(2, f"\n{codes.GUARD_SAYS}{text}\n".encode())


def _prctl(option: int, value: int) -> None:
    """Where it is refused (another system, an old emulator), the search through /proc has to do."""
    if _LINUX:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kernel_kills() -> int:
    """How many processes the kernel has killed for memory since boot."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def _code(status: int) -> int:
    code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return min(code, 254)  # 255 is what ssh says of its own failures
