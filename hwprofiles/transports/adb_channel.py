"""A channel to a program on an Android device, in adb's shell protocol, version 2.

The protocol is spoken to the adb server itself, through the connection that adbutils opens, and not by an `adb` client
in between: a client of another version than the server would kill that server and every connection of it.

A message is one byte of kind, four bytes of length (little-endian) and the data.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from hwprofiles.agent import codes
from hwprofiles.transports.protocol import Ending

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = 0, 1, 2, 3, 4

_HEADER = struct.Struct("<BI")
_PIECE = 32 << 10  # bytes of data in one message to the device; its side has a buffer of 64 KiB
_PENDING = 512 << 10  # bytes on their way to either side, beyond which nothing more is read
_LOG = 1 << 20  # bytes of the log that are kept while nobody reads it
_PIPE = 1 << 20
_HINT = 0.7  # seconds that the end of stdin has to work before the guard is called
_GRACE = 3.0  # seconds that the device has to end everything before the connection is cut
_MESSAGE = 16 << 20  # bytes of data in one message; adbd sends less than a megabyte
_TEXT = 1 << 20  # bytes that a command may print when its output is kept


class GarbledError(ConnectionError):
    """What comes is not what a device sends."""


class Parser:
    """Takes bytes as they come, gives whole messages. Raises `GarbledError` for one longer than any device sends."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(kind, data) of every message that is complete now."""
        self._data += data
        while len(self._data) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._data)
            if size > _MESSAGE:
                raise GarbledError(f"a message of {size} bytes is announced, which no device sends")
            if len(self._data) < _HEADER.size + size:
                return
            message = bytes(self._data[_HEADER.size : _HEADER.size + size])
            del self._data[: _HEADER.size + size]
            yield kind, message


def message(kind: int, data: bytes = b"") -> bytes:
    """One message."""
    return _HEADER.pack(kind, len(data)) + data


@dataclass(frozen=True)
class Result:
    """Of a shell command: its exit code, and what it wrote."""

    code: int
    stdout: str
    stderr: str


def converse(line: socket.socket, source: BinaryIO | None, seconds: float) -> Result:
    """Feed `source` to the command at the other end of `line` and wait for its end.

    Raises `TimeoutError`, `ConnectionError` if the line breaks before, `GarbledError` for more text than a command
    prints.
    """
    deadline = time.monotonic() + seconds
    feed: BinaryIO = source or io.BytesIO()
    parser, output = Parser(), {STDOUT: bytearray(), STDERR: bytearray()}
    pending = memoryview(b"")
    feeding = True
    line.setblocking(False)
    with selectors.DefaultSelector() as ready:
        ready.register(line, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while True:
            if not pending and feeding:
                piece = feed.read(_PIECE)
                feeding = bool(piece)
                pending = memoryview(message(STDIN, piece) if piece else message(CLOSE_STDIN))
            ready.modify(line, selectors.EVENT_READ | (selectors.EVENT_WRITE if pending else 0))
            left = deadline - time.monotonic()
            events = ready.select(left) if left > 0 else []
            if not events:
                raise TimeoutError(f"no end within {seconds:g} s")
            if events[0][1] & selectors.EVENT_WRITE:
                with contextlib.suppress(BlockingIOError):
                    pending = pending[line.send(pending) :]
            if events[0][1] & selectors.EVENT_READ:
                data = line.recv(1 << 16)
                if not data:
                    raise ConnectionError("the connection broke")
                for kind, said in parser.feed(data):
                    if kind == EXIT:
                        texts = [bytes(output[each]).decode(errors="replace") for each in (STDOUT, STDERR)]
                        return Result(said[0] if said else 255, *texts)
                    if kind in output:
                        output[kind] += said
                        if len(output[kind]) > _TEXT:
                            raise GarbledError(f"the command printed more than {_TEXT >> 10} KiB")


class AdbChannel:
    """`hwprofiles.transports.protocol.Channel` over an open shell connection. `lost` is said when that breaks.

    `guard` is a second one to a command that ends the program when it is closed, and not when it got a line before.
    `explain` may turn an exit code into words that help; None leaves it to `codes.spell`.
    """

    def __init__(
        self, line: socket.socket, guard: socket.socket, lost: str, explain: Callable[[int], str | None]
    ) -> None:
        ends = [os.pipe() for _ in range(3)]
        (take, self.requests), (self.replies, give), (self.log, tell) = ends
        self._own = [self.requests, self.replies, self.log]
        for descriptor in (take, give, tell):
            os.set_blocking(descriptor, False)
        for descriptor in (take, give):
            with contextlib.suppress(OSError):  # a user may run out of large pipes; small ones work as well
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE)
        self._line = line
        self._guard = guard
        self._over = threading.Event()
        self._ending: Ending | None = None
        self._lost = lost
        self._explain = explain
        self._pump = _Pump(line, take, give, tell, self._end)
        threading.Thread(target=self._run, name="adb-channel", daemon=True).start()

    def ended(self, wait: float = 0.0) -> Ending | None:
        self._over.wait(wait)
        return self._ending if self._over.is_set() else None

    def kill(self) -> None:
        # The end of stdin ends everything on the device. The outputs close as well: what nobody reads would hold up the
        # news that it has ended.
        for descriptor in self._own:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._own = []
        if self._over.wait(_HINT):
            return
        # What was sent before is stuck in front of a program that does not read, and the end of stdin behind it.
        with contextlib.suppress(OSError):
            self._guard.shutdown(socket.SHUT_RDWR)
        if not self._over.wait(_GRACE):
            self._pump.cut()
            self._over.wait(_GRACE)

    def _run(self) -> None:
        try:
            self._pump.run()
        except GarbledError as error:
            self._lost = f"{self._lost}: {error}"
        finally:
            self._end(None)  # unless it has ended before
            if self._ending is not None and self._ending.code is not None:
                with contextlib.suppress(OSError):
                    self._guard.send(message(STDIN, b"ended\n"))
            self._guard.close()
            self._line.close()
            self._pump.close()

    def _end(self, code: int | None) -> None:
        """Comes before the pipes are closed: whoever sees the end of the replies asks for the ending."""
        if not self._over.is_set():
            self._ending = Ending(code, self._lost if code is None else self._explain(code) or codes.spell(code))
            self._over.set()


class _Pump:
    """Carries bytes between three pipes and the line, in a thread of its own."""

    def __init__(self, line: socket.socket, take: int, give: int, tell: int, end: Callable[[int], None]) -> None:
        self._line = line
        self._end = end
        self._take = take
        self._pipes = {STDOUT: give, STDERR: tell}
        self._out = bytearray()  # to the device
        self._in = {STDOUT: bytearray(), STDERR: bytearray()}  # to us
        self._taking = True

    def cut(self) -> None:
        """Break the connection; `run` returns."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for descriptor in (self._take, *self._pipes.values()):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def run(self) -> None:
        """Until the program or the connection ends and all that came has been handed on."""
        parser = Parser()
        running = True
        self._line.setblocking(False)
        with selectors.DefaultSelector() as ready:
            while running or self._in[STDOUT]:
                self._watch(ready, running)
                for key, events in ready.select():
                    if key.fileobj is self._line:
                        if events & selectors.EVENT_WRITE:
                            self._send()
                        if events & selectors.EVENT_READ:
                            data = self._receive()
                            running = bool(data)
                            for kind, said in parser.feed(data):
                                if kind == EXIT:
                                    self._end(said[0] if said else 255)
                                    running = False
                                elif kind in self._in:
                                    self._in[kind] += said
                            del self._in[STDERR][: max(0, len(self._in[STDERR]) - _LOG)]
                    elif key.fd == self._take:
                        self._read_requests()
                    else:
                        self._hand_on(STDOUT if key.fd == self._pipes[STDOUT] else STDERR)
        self._hand_on(STDERR)

    def _watch(self, ready: selectors.BaseSelector, running: bool) -> None:
        """Register what may be waited for now: nothing is read for which there is no room."""
        wanted: dict[int, int] = {}
        if running:
            reading = selectors.EVENT_READ if len(self._in[STDOUT]) < _PENDING else 0
            wanted[self._line.fileno()] = reading | (selectors.EVENT_WRITE if self._out else 0)
            if self._taking and len(self._out) < _PENDING:
                wanted[self._take] = selectors.EVENT_READ
        for kind, descriptor in self._pipes.items():
            if self._in[kind]:
                wanted[descriptor] = selectors.EVENT_WRITE
        for key in list(ready.get_map().values()):
            if wanted.get(key.fd) != key.events:
                ready.unregister(key.fileobj)
        known = {key.fd for key in ready.get_map().values()}
        for descriptor, events in wanted.items():
            if events and descriptor not in known:
                ready.register(self._line if descriptor == self._line.fileno() else descriptor, events)

    def _send(self) -> None:
        try:
            del self._out[: self._line.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # the end of the connection is seen when reading

    def _receive(self) -> bytes:
        try:
            return self._line.recv(1 << 18)
        except OSError:
            return b""

    def _read_requests(self) -> None:
        try:
            data = os.read(self._take, 1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for start in range(0, len(data), _PIECE):
            self._out += message(STDIN, data[start : start + _PIECE])
        if not data:
            self._out += message(CLOSE_STDIN)
            self._taking = False

    def _hand_on(self, kind: int) -> None:
        """Write what has come; a reader that is gone gets nothing any more."""
        try:
            del self._in[kind][: os.write(self._pipes[kind], self._in[kind])]
        except BlockingIOError:
            pass
        except OSError:
            self._in[kind].clear()
