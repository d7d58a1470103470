"""The transport to this very machine: the agent is a child process in a session of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hwprofiles.errors import TargetUnavailable
from hwprofiles.target import Target

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PIPE = 1 << 20  # bytes; 16 times the default, so that a batch takes few turns

# The kernel kills an agent when the *thread* that started it ends (PR_SET_PDEATHSIG), so all agents are
# started by one thread that lives as long as this process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent-starter")


class LocalChannel:
    """`hwprofiles.transports.protocol.Channel` to a child process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        pipes = [pipe for pipe in (process.stdin, process.stdout, process.stderr) if pipe is not None]
        self._process = process
        self._pipes = pipes
        self.requests, self.replies, self.log = (pipe.fileno() for pipe in pipes)

    @property
    def pid(self) -> int:
        return self._process.pid

    def resident_bytes(self) -> int | None:
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            return None

    def ended(self, wait: float = 0.0) -> str | None:
        # WNOWAIT leaves the zombie: while it is there, its number, and so its group's, belongs to nobody
        # else.
        deadline = time.monotonic() + wait
        while True:
            if self._process.returncode is not None:
                return _spell(self._process.returncode)
            try:
                facts = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return "an unknown end"  # somebody else waits for all children of this process
            if facts is not None:
                return _spell(facts.si_status if facts.si_code == os.CLD_EXITED else -facts.si_status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)

    def kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()


class LocalTransport:
    """`hwprofiles.transports.protocol.Transport` for this machine."""

    def device_id(self, target: Target) -> str:
        return "local"

    def start(self, target: Target, program: bytes, work: Path) -> LocalChannel:
        archive = _write_once(work, program)
        interpreter = target.python or sys.executable
        command = [interpreter, "-X", "faulthandler", str(archive), str(work), str(os.getpid())]
        try:
            return _starter.submit(_start, command).result()
        except (FileNotFoundError, PermissionError) as error:
            raise TargetUnavailable(
                f"target {target.name!r}: cannot start the interpreter {interpreter!r} ({error.strerror}); "
                "set `python` in its profile to a Python that has the runtime"
            ) from error


def _start(command: list[str]) -> LocalChannel:
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    channel = LocalChannel(process)
    for descriptor in (channel.requests, channel.replies):
        with contextlib.suppress(OSError):  # a user may run out of large pipes; small ones work as well
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE)
    return channel


def _write_once(folder: Path, program: bytes) -> Path:
    """The program as a file under its digest. It appears whole: a neighbour may be starting it right now."""
    folder = folder.absolute()
    path = folder / f"agent-{hashlib.sha256(program).hexdigest()[:16]}.pyz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        file.write(program)
    Path(part).replace(path)
    return path


def _spell(code: int) -> str:
    """An exit code or signal in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
