"""A channel to a program on another machine: the pipes of the local command that connects to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from hwprofiles.agent import codes
from hwprofiles.transports.protocol import Ending

_PIPE = 1 << 20  # bytes; 16 times the default, so that a batch takes few turns
_GRACE = 3.0  # seconds that the device has to end everything before the connection is cut


class RemoteChannel:
    """`hwprofiles.transports.protocol.Channel` through a child process such as `ssh`."""

    def __init__(self, process: subprocess.Popen[bytes], read_ending: Callable[[int], Ending]) -> None:
        self._pipes = [pipe for pipe in (process.stdin, process.stdout, process.stderr) if pipe is not None]
        self._process = process
        self._read_ending = read_ending
        self._ending: Ending | None = None
        self.requests, self.replies, self.log = (pipe.fileno() for pipe in self._pipes)

    @property
    def pid(self) -> int:
        """Of the local command."""
        return self._process.pid

    def ended(self, wait: float = 0.0) -> Ending | None:
        if self._ending is None:
            # WNOWAIT leaves the zombie: while it is there, its number, and so its group's, belongs to nobody else.
            code = _wait(self._process, wait)
            if code is not None:
                self._ending = self._read_ending(code)
        return self._ending

    def kill(self) -> None:
        # The end of the requests is what the supervisor on the device waits for. The outputs close as well: a command
        # that cannot get rid of them would not end.
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        if self._process.returncode is None:
            if self.ended(wait=_GRACE) is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                self.ended(wait=_GRACE)
            self._process.wait()


def open_channel(command: Sequence[str], read_ending: Callable[[int], Ending]) -> RemoteChannel:
    """Start `command` in a session of its own, so that it and what it starts can be ended together.

    It has no terminal: nothing can ask the user. Raises `OSError`.
    """
    process = subprocess.Popen(
        list(command),
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    channel = RemoteChannel(process, read_ending)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        for descriptor in (channel.requests, channel.replies):
            with contextlib.suppress(OSError):  # a user may run out of large pipes; small ones work as well
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE)
    return channel


def spell(status: int) -> Ending:
    """The ending of a program whose exit status the command passes on; negative: the signal that ended the command."""
    code = status if status >= 0 else 128 - status
    return Ending(code, codes.spell(code))


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Its exit status (negative: a signal) or None; the zombie stays."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while process.returncode is None:
        try:
            facts = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return process.wait()  # somebody else waits for all children of this process
        if facts is not None:
            return facts.si_status if facts.si_code == os.CLD_EXITED else -facts.si_status
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause = min(2 * pause, 0.02)
    return process.returncode
