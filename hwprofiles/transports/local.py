"""The transport to this very machine: the agent's supervisor is a child process in a session of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hwprofiles.agent import codes
from hwprofiles.errors import TargetUnavailable
from hwprofiles.registry import RUNTIMES, load_plugin
from hwprofiles.target import Target
from hwprofiles.transports.protocol import Ending
from hwprofiles.transports.remote_options import Options

_PIPE = 1 << 20  # bytes; 16 times the default, so that a batch takes few turns
_CLEANING = 5.0  # seconds that a supervisor has to end its worker before it is killed itself


class LocalChannel:
    """`hwprofiles.transports.protocol.Channel` to a child process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        pipes = [pipe for pipe in (process.stdin, process.stdout, process.stderr) if pipe is not None]
        self._process = process
        self._pipes = pipes
        self.requests, self.replies, self.log = (pipe.fileno() for pipe in pipes)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    def ended(self, wait: float = 0.0) -> Ending | None:
        # WNOWAIT leaves the zombie: while it is there, its number, and so its group's, belongs to nobody
        # else.
        deadline = time.monotonic() + wait
        while True:
            if self._process.returncode is not None:
                return _ending(self._process.returncode)
            try:
                facts = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return Ending(None, "something in this process waits for all its children and took the exit code")
            if facts is not None:
                return _ending(facts.si_status if facts.si_code == os.CLD_EXITED else -facts.si_status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)

    def kill(self) -> None:
        if self._process.returncode is None:
            # A fork of this process may have a copy of the pipe, so that closing ours does not end it: tell it too.
            self._pipes[0].close()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self._process.terminate()
            if self.ended(wait=_CLEANING) is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()


class LocalTransport:
    """`hwprofiles.transports.protocol.Transport` for this machine. It has no options of its own."""

    def check(self, target: Target) -> None:
        Options(target, ())

    def start(self, target: Target, program: bytes, work: Path) -> LocalChannel:
        self.check(target)
        archive = write_once(work, program)
        interpreter = target.python or sys.executable
        command = [interpreter, str(archive), str(work.absolute()), str(target.memory_limit)]
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise TargetUnavailable(
                f"target {target.name!r}: cannot start the interpreter {interpreter!r} ({error.strerror}); "
                f"{_remedy(target, interpreter)}, or to a Python that has the runtime"
            ) from error
        channel = LocalChannel(process)
        for descriptor in (channel.requests, channel.replies):
            with contextlib.suppress(OSError, AttributeError):  # a user may run out of large pipes; small ones work too
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE)
        return channel


def _remedy(target: Target, interpreter: str) -> str:
    """How to make that interpreter, with what the runtime needs in it."""
    runtime = load_plugin(RUNTIMES, target.runtime, target=target.name)
    tail = ", or set `python` in its profile"
    hint = f"install what it needs: {runtime.install_hint(target)}{tail}"
    path = Path(interpreter).expanduser()
    if path.parent.name != "bin" and not shutil.which(interpreter) and target.python is not None:
        folder = Path.home() / target.name
        better = target.model_copy(update={"python": str(folder / "bin" / "python")})
        return (
            f"make an environment first: `python3 -m venv {shlex.quote(str(folder))}`, install what it needs: "
            f"{runtime.install_hint(better)}, and set `python` in its profile to {better.python}"
        )
    if path.parent.name == "bin" and path.is_absolute() and not path.exists():
        return f"make it with `python3 -m venv {shlex.quote(str(path.parents[1]))}`, and {hint}"
    return hint


def write_once(folder: Path, program: bytes) -> Path:
    """The program as a file under its digest. It appears whole: a neighbour may be starting it right now."""
    folder = folder.absolute()
    path = folder / f"agent-{hashlib.sha256(program).hexdigest()[:16]}.pyz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        file.write(program)
    Path(part).chmod(0o644)  # inside a container it may be another user who starts it
    Path(part).replace(path)
    return path


def _ending(code: int) -> Ending:
    """From what `subprocess` calls a return code."""
    code = code if code >= 0 else 128 - code
    return Ending(code, codes.spell(code))
