"""The parent's end: requests with a hard deadline and a memory watchdog. Every way to fail becomes a Failure.

After a timeout, a crash, a memory overrun or garbage the agent is killed with its whole group, and `alive` is
False: its owner starts a fresh one. A refusal (a broken model, a full disk) leaves it alive.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np

from hwprofiles.agent import frames
from hwprofiles.errors import DeviceFailure, Failure, FailureKind

Feed = Mapping[str, np.ndarray[Any, Any]]

_POLL = 0.02  # seconds between two looks at the agent's memory
_PIECE = 4 << 20  # bytes of a model file per request
_LOG_TAIL = 16 << 10  # bytes of the agent's stderr that are kept
_KINDS = frozenset(get_args(FailureKind))


class Wire(Protocol):
    """What is needed of a started agent; `hwprofiles.transports.protocol.Channel` offers it."""

    requests: int
    replies: int
    log: int

    def resident_bytes(self) -> int | None: ...
    def ended(self, wait: float = 0.0) -> str | None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Of one request: `timeout` in seconds, `reply` in bytes. Of the process: `memory` in bytes."""

    timeout: float
    memory: int
    reply: int = 1 << 30


@dataclass
class Session:
    """A model that is open in the agent. `seconds` to open it; `warm` once it has been warmed up."""

    digest: str
    seconds: float
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    first_seconds: float | None = None
    warm: bool = False


@dataclass
class _Exchange:
    """One request on its way: what it is called, until when it may take."""

    op: str
    stage: str
    deadline: float
    seconds: float
    next_look: float = 0.0


class AgentClient:
    """One agent process. Not for use by two threads at once. `label` names the device in messages."""

    def __init__(self, wire: Wire, limits: Limits, label: str) -> None:
        self.alive = True
        self.sessions: dict[str, Session] = {}
        self._wire = wire
        self._limits = limits
        self._label = label
        self._number = 0
        self._log = bytearray()
        self._kernel_kills = _oom_kills()
        for descriptor in (wire.requests, wire.replies, wire.log):
            os.set_blocking(descriptor, False)

    def request(
        self,
        op: str,
        *,
        stage: str,
        timeout: float | None = None,
        feeds: Sequence[Feed] = (),
        payload: memoryview | None = None,
        **fields: Any,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Ask and wait: (header of the reply, its arrays). Raises `DeviceFailure`."""
        seconds = self._limits.timeout if timeout is None else timeout
        exchange = _Exchange(op, stage, time.monotonic() + seconds, seconds)
        self._number += 1
        header: dict[str, Any] = {"op": op, "number": self._number, **fields}
        parts = [payload] if payload is not None else []
        if feeds:
            named = {f"{i}/{name}": value for i, feed in enumerate(feeds) for name, value in feed.items()}
            try:
                specs, parts = frames.pack_arrays(named)
            except frames.ArrayError as error:
                raise DeviceFailure(Failure(kind="unsupported", stage=stage, message=str(error))) from error
            header |= {"feeds": len(feeds), "arrays": specs}
        try:
            self._send(exchange, [memoryview(frames.encode(header, sum(p.nbytes for p in parts))), *parts])
            return self._receive(exchange)
        except frames.FrameError as error:
            raise self._fatal(exchange, "protocol", f"the agent answered garbage: {error}") from error
        except DeviceFailure:
            raise
        except BaseException:
            # An interrupted exchange (Ctrl-C, memory) leaves half a frame on the line: no later one could be
            # read.
            self._end()
            raise

    @contextlib.contextmanager
    def reading(self, stage: str) -> Iterator[None]:
        """Around code that takes a reply apart: what does not fit is the agent's fault and ends it."""
        try:
            yield
        except (frames.FrameError, KeyError, TypeError, ValueError) as error:
            exchange = _Exchange("reply", stage, 0.0, 0.0)
            raise self._fatal(exchange, "protocol", f"the agent answered garbage: {error!r}") from error

    def put(self, path: Path, digest: str) -> None:
        """Send the model file unless the device has it already. Raises `DeviceFailure`."""
        if self.request("has", stage="load", digest=digest)[0]["has"]:
            return
        size, offset = path.stat().st_size, 0
        with path.open("rb") as file:
            while True:
                piece = file.read(_PIECE)
                self.request("put", stage="load", payload=memoryview(piece), digest=digest, offset=offset, size=size)
                offset += len(piece)
                if offset >= size or not piece:
                    return

    def open(self, handle: str, path: Path, digest: str, *, fresh: bool = False) -> Session:
        """Open a model under a name; a model that is open there under the same digest stays.

        Raises `DeviceFailure`.
        """
        session = self.sessions.get(handle)
        if session is not None and session.digest == digest and not fresh:
            return session
        self.sessions.pop(handle, None)
        self.put(path, digest)
        reply, _ = self.request("open", stage="load", handle=handle, digest=digest)
        with self.reading("load"):
            session = Session(digest, duration(reply, "seconds"), reply["inputs"], reply["outputs"])
        self.sessions[handle] = session
        return session

    def check_feeds(self, handle: str, feeds: Sequence[Feed], *, stage: str) -> None:
        """Raise `DeviceFailure` if a feed's names are not exactly those of the open model's inputs."""
        wanted = {str(port["name"]): port for port in self.sessions[handle].inputs}
        for feed in feeds:
            if set(feed) != set(wanted):
                takes = ", ".join(f"{name} {port.get('type')} {port.get('shape')}" for name, port in wanted.items())
                message = f"{self._label}: the model takes {takes}; it was given {', '.join(feed) or 'nothing'}"
                raise DeviceFailure(Failure(kind="bad_model", stage=stage, message=message))

    def close(self) -> None:
        """End the agent. Never raises."""
        if self.alive:
            try:
                os.write(self._wire.requests, frames.encode({"op": "exit", "number": 0}))
                self._wire.ended(wait=1.0)
            except OSError:
                pass  # a full or broken pipe: it is killed below anyway
            self._end()

    def _send(self, exchange: _Exchange, pieces: list[memoryview]) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._wire.requests, selectors.EVENT_WRITE)
            ready.register(self._wire.log, selectors.EVENT_READ)
            for piece in pieces:
                while piece.nbytes:
                    self._wait(exchange, ready)
                    try:
                        piece = piece[os.write(self._wire.requests, piece[: 1 << 20]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        raise self._ended(exchange) from None

    def _receive(self, exchange: _Exchange) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        with selectors.DefaultSelector() as ready:
            ready.register(self._wire.replies, selectors.EVENT_READ)
            ready.register(self._wire.log, selectors.EVENT_READ)
            prefix = self._take(exchange, ready, frames.PREFIX.size)
            header_size, payload_size = frames.decode_prefix(bytes(prefix), self._limits.reply)
            text = bytes(self._take(exchange, ready, header_size))
            header = frames.decode_header(text, payload_size)
            if header.get("number") != self._number:
                raise frames.FrameError(f"reply number {header.get('number')!r} to request {self._number}")
            if "failure" in header:
                raise self._refusal(exchange, header["failure"])
            payload = self._take(exchange, ready, payload_size)
        return header, frames.unpack_arrays(header.get("arrays", []), payload)

    def _take(self, exchange: _Exchange, ready: selectors.BaseSelector, size: int) -> bytearray:
        data = bytearray()  # grows with what really arrives, not with what was announced
        while len(data) < size:
            self._wait(exchange, ready)
            try:
                piece = os.read(self._wire.replies, min(size - len(data), 1 << 20))
            except BlockingIOError:
                continue
            if not piece:
                raise self._ended(exchange)
            data += piece
        return data

    def _wait(self, exchange: _Exchange, ready: selectors.BaseSelector) -> None:
        """Return when the line is ready. Until then: drain the log, watch clock and memory."""
        while True:
            now = time.monotonic()
            if now >= exchange.deadline:
                message = f"no answer to {exchange.op!r} within {exchange.seconds:g} s"
                raise self._fatal(exchange, "timeout", message)
            if now >= exchange.next_look:
                exchange.next_look = now + _POLL
                self._watch_memory(exchange)
            found = {key.fd for key, _ in ready.select(min(_POLL, exchange.deadline - now))}
            if self._wire.log in found and not self._drain():
                ready.unregister(self._wire.log)
            if found - {self._wire.log}:
                return

    def _watch_memory(self, exchange: _Exchange) -> None:
        resident = self._wire.resident_bytes()
        if resident is not None and resident > self._limits.memory:
            limit = self._limits.memory >> 20
            raise self._fatal(
                exchange, "oom", f"the process grew to {resident >> 20} MiB, over its limit of {limit} MiB"
            )

    def _drain(self) -> bool:
        """Take what the agent has printed; False at the end of it.

        A flood must neither block it nor fill us.
        """
        try:
            text = os.read(self._wire.log, 1 << 16)
        except BlockingIOError:
            return True
        self._log = (self._log + text)[-_LOG_TAIL:]
        return bool(text)

    def _refusal(self, exchange: _Exchange, told: Any) -> DeviceFailure:
        if not isinstance(told, dict) or told.get("kind") not in _KINDS:
            raise frames.FrameError(f"a failure of unknown kind: {str(told)[:200]}")
        message, trace = str(told.get("message", "")), told.get("traceback")
        return DeviceFailure(
            Failure(
                kind=told["kind"],
                stage=exchange.stage,
                message=f"{self._label}: {message}",
                traceback=None if trace is None else str(trace),
            )
        )

    def _ended(self, exchange: _Exchange) -> DeviceFailure:
        how = self._wire.ended(wait=2.0)
        if how is None:
            return self._fatal(exchange, "protocol", "the agent closed its output but runs on")
        if how == "SIGKILL" and _oom_kills() > self._kernel_kills:
            return self._fatal(exchange, "oom", "the kernel killed the process: the machine is out of memory")
        return self._fatal(exchange, "crash", f"the process died during {exchange.op!r}: {how}")

    def _fatal(self, exchange: _Exchange, kind: FailureKind, message: str) -> DeviceFailure:
        for _ in range(32):  # not until it is empty: a flood never is
            if not (self._readable_log() and self._drain()):
                break
        self._end()
        log = self._log.decode(errors="replace").strip() or None
        failure = Failure(kind=kind, stage=exchange.stage, message=f"{self._label}: {message}", traceback=log)
        return DeviceFailure(failure)

    def _readable_log(self) -> bool:
        with selectors.DefaultSelector() as ready:
            ready.register(self._wire.log, selectors.EVENT_READ)
            return bool(ready.select(0))

    def _end(self) -> None:
        self.alive = False
        self.sessions.clear()
        self._wire.kill()


def duration(reply: Mapping[str, Any], key: str) -> float:
    """A duration out of a reply. Raises FrameError if it is not a finite number >= 0."""
    value = reply.get(key)
    if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise frames.FrameError(f"{key!r} is {value!r}, not a duration")
    return float(value)


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)
