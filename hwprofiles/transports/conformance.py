"""What every transport must do. Derive a test class, say which transport and target, and run it with pytest.

class TestMyTransport(TransportConformance):
    transport = MyTransport()
    target = Target(name="mine", transport="my")

Where the transport leads to another machine (or another view of the processes), override `alive`, which tells
whether a process is there. Where a system starts programs slowly, give more `patience`.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from hwprofiles.agent import codes
from hwprofiles.agent.archive import build_archive
from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.target import Target
from hwprofiles.transports.protocol import Channel, Ending, Transport

_ECHO = """
import os
os.write(2, b"I am up")
while True:
    piece = os.read(0, 65536)
    if not piece:
        raise SystemExit(7)
    while piece:
        piece = piece[os.write(1, piece):]
"""
_DEAF = "import os, time\nos.write(1, b'u')\ntime.sleep(600)\n"
_ARGUMENTS = """
import os, sys
os.write(1, ("%s\\n%s\\n%d\\n" % (sys.argv[2], os.path.isabs(sys.argv[1]), len(sys.argv))).encode())
os.read(0, 1)
"""
_GROWS = """
import os, time
kept = []
while True:
    kept.append(os.urandom(1 << 20) * 8)
    time.sleep(0.002)
"""
# Says ten digits of each process that must not be left: the worker, a child, and a grandchild that took a session of
# its own and whose parent is gone.
_FAMILY = """
import os, signal, sys, time
def tell(pid):
    os.write(1, b"%010d" % pid)
tell(os.getpid())
if os.fork() == 0:
    tell(os.getpid())
    time.sleep(600)
middle = os.fork()
if middle == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(os.getpid())
        time.sleep(600)
    os._exit(0)
os.waitpid(middle, 0)
"""
_THEN = {
    "sleeps": "time.sleep(600)",
    "is stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "holds its stdin": "os.read(0, 1)\ntime.sleep(600)",
}
# Starts a program through a transport and is then killed without a chance to clean up.
_PARENT = """
import os, sys, time
from importlib import import_module
from pathlib import Path
from hwprofiles.target import Target
transport = getattr(import_module(sys.argv[1]), sys.argv[2])()
channel = transport.start(Target.model_validate_json(sys.argv[3]), Path(sys.argv[4]).read_bytes(), Path(sys.argv[5]))
while True:
    os.write(1, os.read(channel.replies, 4096))
"""


class TransportConformance:
    """Tests of one transport; set `transport` and `target`."""

    transport: ClassVar[Transport]
    target: ClassVar[Target]
    patience = 30.0  # seconds for anything that happens on the device

    def alive(self, pid: int) -> bool:
        """Whether the process runs on the device (a zombie does not). As seen from this machine unless overridden."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def test_carries_bytes_unchanged_both_ways(self, tmp_path: Path) -> None:
        sent = bytes(range(256)) * 1000 + b"\r\n\x00\x04\x1a"
        channel = self._start(_ECHO, tmp_path)
        try:
            assert self._exchange(channel, sent) == sent
        finally:
            channel.kill()

    def test_log_is_apart_from_replies(self, tmp_path: Path) -> None:
        channel = self._start(_ECHO, tmp_path)
        try:
            assert self._exchange(channel, b"x") == b"x"
            assert b"I am up" in self._until(channel.log, b"I am up")
        finally:
            channel.kill()

    def test_gives_folder_and_memory_limit(self, tmp_path: Path) -> None:
        channel = self._start(_ARGUMENTS, tmp_path)
        try:
            limit, absolute, count = self._until(channel.replies, b"3\n").decode().split()
            assert int(limit) == self.target.memory_limit and absolute == "True" and count == "3"
        finally:
            channel.kill()

    def test_closing_requests_ends_a_program_that_does_not_listen(self, tmp_path: Path) -> None:
        channel = self._start(_DEAF, tmp_path)
        try:
            assert self._read(channel.replies, 1) == b"u"
            assert channel.ended() is None
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, channel.requests)  # closes the pipe but keeps the descriptor the channel owns
            os.close(null)
            assert channel.ended(wait=self.patience) is not None
        finally:
            channel.kill()

    def test_tells_exit_codes_and_signals(self, tmp_path: Path) -> None:
        assert self._ending("raise SystemExit(7)", tmp_path) == Ending(7, "exit code 7")
        assert self._ending("raise SystemExit(0)", tmp_path) == Ending(0, "exit code 0")
        crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
        assert self._ending(crash, tmp_path) == Ending(139, "SIGSEGV")

    def test_an_uncaught_error_is_in_the_log(self, tmp_path: Path) -> None:
        channel = self._start("raise LookupError('a bug')", tmp_path)
        try:
            assert b"LookupError: a bug" in self._until(channel.log, b"LookupError: a bug")
            ending = channel.ended(wait=self.patience)
            assert ending is not None and ending.code == 1
        finally:
            channel.kill()

    def test_kill_ends_a_program_that_does_not_listen(self, tmp_path: Path) -> None:
        channel = self._start(_DEAF, tmp_path)
        assert self._read(channel.replies, 1) == b"u"
        channel.kill()
        channel.kill()  # twice is fine
        assert channel.ended(wait=self.patience) is not None

    def test_kill_leaves_no_orphan(self, tmp_path: Path) -> None:
        for name, then in _THEN.items():
            channel = self._start(_FAMILY + then, tmp_path)
            family = self._family(channel.replies)
            assert all(self.alive(pid) for pid in family), name
            channel.kill()
            assert not self._left(family), name

    def test_the_end_of_the_program_leaves_no_orphan(self, tmp_path: Path) -> None:
        channel = self._start(_FAMILY + "raise SystemExit(3)", tmp_path)
        try:
            family = self._family(channel.replies)
            assert channel.ended(wait=self.patience) == Ending(3, "exit code 3")
            assert not self._left(family)
        finally:
            channel.kill()

    def test_a_killed_parent_leaves_no_orphan(self, tmp_path: Path) -> None:
        program = tmp_path / "program"
        kind = type(self.transport)
        for name, then in _THEN.items():
            program.write_bytes(build_archive(_FAMILY + then))
            arguments = [kind.__module__, kind.__qualname__, self.target.model_dump_json(), str(program), str(tmp_path)]
            parent = subprocess.Popen([sys.executable, "-c", _PARENT, *arguments], stdout=subprocess.PIPE)
            assert parent.stdout is not None
            try:
                family = self._family(parent.stdout.fileno())
                assert all(self.alive(pid) for pid in family), name
            finally:
                parent.kill()
                parent.wait()
                parent.stdout.close()
            assert not self._left(family), name

    def test_growing_over_the_limit_has_an_exit_code_of_its_own(self, tmp_path: Path) -> None:
        small = self.target.model_copy(update={"memory_limit": 128 << 20})
        channel = self.transport.start(small, build_archive(_GROWS), tmp_path)
        try:
            ending = channel.ended(wait=self.patience)
            assert ending is not None and ending.code == codes.OUT_OF_MEMORY
            assert codes.GUARD_SAYS.encode() in self._until(channel.log, b"MiB\n")
        finally:
            channel.kill()

    def test_check_takes_what_start_takes(self) -> None:
        check = getattr(self.transport, "check", None)
        if check is not None:  # it may be left out
            check(self.target)

    def test_check_refuses_what_start_refuses(self, tmp_path: Path) -> None:
        check = getattr(self.transport, "check", None)
        if check is None:
            return
        options = {**self.target.options, "no_such_option": 1}
        target = self.target.model_copy(update={"options": options, "runtime": "onnxruntime"})
        for refuse in (check, lambda wrong: self.transport.start(wrong, build_archive(_ECHO), tmp_path)):
            try:
                refuse(target)
            except BadProfile as error:
                assert target.name in str(error) and "no_such_option" in str(error)
            else:
                raise AssertionError("an option that nobody knows was taken")

    def test_missing_interpreter_says_what_to_do(self, tmp_path: Path) -> None:
        target = self.target.model_copy(update={"python": "/no/such/python"})
        try:
            channel = self.transport.start(target, build_archive(_ECHO), tmp_path)
        except TargetUnavailable as error:
            assert target.name in str(error) and "/no/such/python" in str(error)
        else:  # a remote shell can only tell later
            assert channel.ended(wait=self.patience) is not None
            channel.kill()

    def _start(self, source: str, work: Path) -> Channel:
        return self.transport.start(self.target, build_archive(source), work)

    def _ending(self, source: str, work: Path) -> Ending | None:
        channel = self._start(source, work)
        try:
            return channel.ended(wait=self.patience)
        finally:
            channel.kill()

    def _family(self, descriptor: int) -> list[int]:
        text = self._read(descriptor, 30)
        return [int(text[start : start + 10]) for start in (0, 10, 20)]

    def _left(self, family: list[int]) -> list[int]:
        """Those that are still there after some patience."""
        deadline = time.monotonic() + self.patience
        while True:
            left = [pid for pid in family if self.alive(pid)]
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(0.02)

    def _exchange(self, channel: Channel, data: bytes) -> bytes:
        os.write(channel.requests, data[: 1 << 15])
        back = self._read(channel.replies, len(data[: 1 << 15]))
        rest = data[1 << 15 :]
        return back + (self._exchange(channel, rest) if rest else b"")

    def _read(self, descriptor: int, size: int) -> bytes:
        data = b""
        for piece in self._pieces(descriptor):
            data += piece
            if len(data) >= size:
                break
        return data

    def _until(self, descriptor: int, end: bytes) -> bytes:
        data = b""
        for piece in self._pieces(descriptor):
            data += piece
            if end in data:
                break
        return data

    def _pieces(self, descriptor: int) -> Iterator[bytes]:
        """What arrives, until the end or the end of our patience."""
        deadline = time.monotonic() + self.patience
        with selectors.DefaultSelector() as ready:
            ready.register(descriptor, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if ready.select(0.1):
                    piece = os.read(descriptor, 65536)
                    if not piece:
                        return
                    yield piece
