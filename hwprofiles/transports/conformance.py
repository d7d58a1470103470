"""What every transport must do. Derive a test class, say which transport and target, and run it with pytest.

class TestMyTransport(TransportConformance):
    transport = MyTransport()
    target = Target(name="mine", transport="my")
"""

from __future__ import annotations

import io
import os
import selectors
import time
import zipfile
from pathlib import Path
from typing import ClassVar

from hwprofiles.errors import TargetUnavailable
from hwprofiles.target import Target
from hwprofiles.transports.protocol import Channel, Transport

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
_DEAF = "import time\ntime.sleep(600)\n"
_CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"


class TransportConformance:
    """Tests of one transport; set `transport` and `target`."""

    transport: ClassVar[Transport]
    target: ClassVar[Target]
    patience = 30.0  # seconds for anything that happens on the device

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
            assert b"I am up" in self._read(channel.log, 7)
        finally:
            channel.kill()

    def test_end_of_requests_reaches_the_program(self, tmp_path: Path) -> None:
        channel = self._start(_ECHO, tmp_path)
        try:
            assert self._exchange(channel, b"x") == b"x"
            assert channel.ended() is None
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, channel.requests)  # closes the pipe but keeps the descriptor the channel owns
            os.close(null)
            assert channel.ended(wait=self.patience) == "exit code 7"
        finally:
            channel.kill()

    def test_names_the_signal_of_a_crash(self, tmp_path: Path) -> None:
        channel = self._start(_CRASH, tmp_path)
        try:
            assert channel.ended(wait=self.patience) == "SIGSEGV"
        finally:
            channel.kill()

    def test_kill_ends_a_program_that_does_not_listen(self, tmp_path: Path) -> None:
        channel = self._start(_DEAF, tmp_path)
        assert channel.ended() is None
        channel.kill()
        channel.kill()  # twice is fine
        assert channel.ended(wait=self.patience) is not None

    def test_memory_is_a_number_or_unknown(self, tmp_path: Path) -> None:
        channel = self._start(_ECHO, tmp_path)
        try:
            assert self._exchange(channel, b"x") == b"x"
            resident = channel.resident_bytes()
            assert resident is None or resident > 1 << 20
        finally:
            channel.kill()

    def test_missing_interpreter_says_what_to_do(self, tmp_path: Path) -> None:
        target = self.target.model_copy(update={"python": "/no/such/python"})
        try:
            channel = self.transport.start(target, program(_ECHO), tmp_path)
        except TargetUnavailable as error:
            assert target.name in str(error) and "/no/such/python" in str(error)
        else:  # a remote shell can only tell later
            assert channel.ended(wait=self.patience) is not None
            channel.kill()

    def test_device_id_is_stable(self) -> None:
        first = self.transport.device_id(self.target)
        assert first and first == self.transport.device_id(self.target)

    def _start(self, source: str, work: Path) -> Channel:
        return self.transport.start(self.target, program(source), work)

    def _exchange(self, channel: Channel, data: bytes) -> bytes:
        os.write(channel.requests, data[: 1 << 15])
        back = self._read(channel.replies, len(data[: 1 << 15]))
        rest = data[1 << 15 :]
        return back + (self._exchange(channel, rest) if rest else b"")

    def _read(self, descriptor: int, size: int) -> bytes:
        deadline = time.monotonic() + self.patience
        data = b""
        with selectors.DefaultSelector() as ready:
            ready.register(descriptor, selectors.EVENT_READ)
            while len(data) < size and time.monotonic() < deadline:
                if ready.select(0.1):
                    data += os.read(descriptor, size - len(data))
        return data


def program(source: str) -> bytes:
    """A zip archive that Python runs, with `source` as its only module."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", source)
    return buffer.getvalue()
