"""The parent's end: requests with a hard deadline. Every way in which a model can fail becomes a Failure.

After a timeout, a crash, a memory overrun or garbage the agent is killed with all it started, and `alive` is
False: its owner starts a fresh one. A refusal (a broken model, a full disk) leaves it alive. A connection that
breaks, or that brings garbage, says nothing about the model: that is `TargetLost`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from pydantic import ValidationError

from hwprofiles.agent import codes, frames
from hwprofiles.errors import DeviceFailure, Failure, FailureKind, TargetLost, TargetUnavailable

Feed = Mapping[str, np.ndarray[Any, Any]]

_GOODBYE = 5.0  # seconds for a program that has closed its output to end, with all it started
_PIECE = 4 << 20  # bytes of a model file per request
_LOG_TAIL = 16 << 10  # bytes of the agent's stderr that are kept
_SMALL_REPLY = 64 << 20  # bytes of arrays in any other reply: times of a few million inferences
_LARGE_REPLIES = ("infer", "engine")
_KINDS = frozenset(get_args(FailureKind))
_AGES = 1e10  # seconds
# What code that takes a reply apart runs into when the reply is garbage.
_MISFITS = (
    *(frames.FrameError, LookupError, TypeError, ValueError),
    *(ArithmeticError, AttributeError, RecursionError),
)
_SHOWN = 300  # characters of what a device says, in a message
_WORDS = 2000  # characters of a failure's message
_LOST = "lost"  # kind of a refusal for which the model can do nothing
_LARGE = 64 << 10  # bytes of feeds above which they are sent once and then called by their digest
# What asks for the same feeds again and again.
_REPEATED = frozenset({"prepare", "warm", "time", "check_outputs", "kernels", "memory", "energy"})


class Ended(Protocol):
    """`hwprofiles.transports.protocol.Ending`."""

    @property
    def code(self) -> int | None: ...
    @property
    def said(self) -> str: ...


class Wire(Protocol):
    """What is needed of a started agent; `hwprofiles.transports.protocol.Channel` offers it."""

    requests: int
    replies: int
    log: int

    def ended(self, wait: float = 0.0) -> Ended | None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Of one request: `timeout` in seconds, `reply` in bytes (of outputs; anything else is small). Of the process:
    `memory` in bytes."""

    timeout: float
    memory: int
    reply: int = 1 << 30


@dataclass
class Session:
    """A model that is open in the agent. `seconds` to open it; `warm` once it has been warmed up.

    `inputs` and `outputs`: of each its `name`, and its `type` and `shape` as the runtime spells them.
    """

    digest: str
    seconds: float
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    first_seconds: float | None = None
    warm: bool = False


@dataclass(frozen=True)
class Moment:
    """A reading of the device's clock. `sent` and `got` are this machine's clock before and after; all monotonic,
    seconds. `boot` changes when the device starts anew."""

    sent: float
    got: float
    device: float
    boot: str


@dataclass
class _Exchange:
    """One request on its way: what it is called, until when it may take."""

    op: str
    stage: str
    deadline: float
    seconds: float
    sent: float = 0.0


class AgentClient:
    """One agent process. Not for use by two threads at once. `label` names the device in messages.

    `token` is that of the lease under which it is used, if that is an exclusive one: the agent then refuses to serve
    once the lease was lost. `reachable`, if given, tells whether the device answers at all: a request that is not
    answered in time is the model's fault only if it does. `moment` is the last reading of the device's clock.
    """

    def __init__(self, wire: Wire, limits: Limits, label: str, *, reachable: Callable[[], bool] | None = None) -> None:
        self.alive = True
        self.sessions: dict[str, Session] = {}
        self.token: int | None = None
        self.moment: Moment | None = None
        self._reachable = reachable
        self._wire = wire
        self._limits = limits
        self._label = label
        self._number = 0
        self._log = bytearray()
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
        """Ask and wait: (header of the reply, its arrays). Raises `DeviceFailure`, `TargetLost`, and
        `TargetUnavailable` if the connection never came about."""
        seconds = self._limits.timeout if timeout is None else timeout
        header: dict[str, Any] = {"op": op, **fields}
        if self.token is not None:
            header["token"] = self.token
        parts = [payload] if payload is not None else []
        if feeds:
            specs, parts = self._pack(feeds, stage)
            header |= {"feeds": len(feeds)}
            if op in _REPEATED and sum(part.nbytes for part in parts) > _LARGE:
                header["stored"] = {"digest": self._store(parts, stage), "arrays": specs}
                parts = []
            else:
                header["arrays"] = specs
        self._number += 1
        header["number"] = self._number
        now = time.monotonic()
        exchange = _Exchange(op, stage, now + seconds, seconds, sent=now)
        try:
            self._send(exchange, [memoryview(frames.encode(header, sum(p.nbytes for p in parts))), *parts])
            return self._receive(exchange)
        except (frames.FrameError, RecursionError) as error:
            raise self._garbled(error) from error
        except (DeviceFailure, TargetUnavailable):
            raise
        except BaseException:
            # An interrupted exchange (Ctrl-C, memory) leaves half a frame on the line: no later one could be
            # read.
            self._end()
            raise

    @contextlib.contextmanager
    def reading(self, stage: str) -> Iterator[None]:
        """Around code that takes a reply to a request of `stage` apart: what does not fit ends the agent.

        Raises `TargetLost`.
        """
        try:
            yield
        except _MISFITS as error:
            raise self._garbled(error) from error

    def look(self) -> bool:
        """Whether it lives. One that died while nothing was asked of it says nothing about any model."""
        if self.alive and self._wire.ended() is not None:
            self._end()
        return self.alive

    def put(self, path: Path, digest: str) -> None:
        """Send the model file unless the device has it already. Raises `DeviceFailure`, `TargetLost`."""
        with path.open("rb") as file:
            self._put(digest, path.stat().st_size, file.read, "load")

    def check_outputs(self, handle: str, feeds: Sequence[Feed], *, stage: str = "latency") -> list[str]:
        """Run each feed once; for every floating-point output that is not finite, words that name it.

        Raises `DeviceFailure`, `TargetLost`.
        """
        reply, _ = self.request("check_outputs", stage=stage, feeds=feeds, handle=handle)
        with self.reading(stage):
            return [
                f"output {str(found['output'])!r}: {int(found['count'])} of {int(found['size'])} values for input "
                f"{int(found['feed'])} are not finite"
                for found in reply["nonfinite"]
            ]

    def open(
        self,
        handle: str,
        path: Path,
        digest: str,
        *,
        fresh: bool = False,
        padding: int = 0,
        shapes: Sequence[Mapping[str, Sequence[int]]] = (),
    ) -> Session:
        """Open a model under a name; a model that is open there under the same digest stays, unless `fresh`.

        `padding`: bytes that are taken before, so that the model does not lie in memory where the last one did.
        `shapes`: dimensions of each input that it will be asked with, for runtimes that build for them.

        Raises `DeviceFailure`, `TargetLost`.
        """
        session = self.sessions.get(handle)
        if session is not None and session.digest == digest and not fresh:
            return session
        self.sessions.pop(handle, None)
        self.put(path, digest)
        reply, _ = self.request(
            "open", stage="load", handle=handle, digest=digest, padding=padding, shapes=list(shapes)
        )
        with self.reading("load"):
            session = Session(digest, duration(reply, "seconds"), _ports(reply, "inputs"), _ports(reply, "outputs"))
        self.sessions[handle] = session
        return session

    def check_feeds(self, handle: str, feeds: Sequence[Feed], *, stage: str) -> None:
        """Raise `DeviceFailure` if a feed's names are not exactly those of the open model's inputs."""
        wanted = {port["name"]: port for port in self.sessions[handle].inputs}
        for feed in feeds:
            if set(feed) != set(wanted):
                takes = ", ".join(f"{name} {port.get('type')} {port.get('shape')}" for name, port in wanted.items())
                takes = takes[:_WORDS]
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

    def _pack(self, feeds: Sequence[Feed], stage: str) -> tuple[list[dict[str, Any]], list[memoryview]]:
        named = {f"{i}/{name}": value for i, feed in enumerate(feeds) for name, value in feed.items()}
        try:
            return frames.pack_arrays(named)
        except frames.ArrayError as error:
            raise DeviceFailure(Failure(kind="unsupported", stage=stage, message=str(error))) from error

    def _store(self, parts: list[memoryview], stage: str) -> str:
        """Send arrays into the device's cache; their digest."""
        data = b"".join(parts)
        digest = hashlib.sha256(data).hexdigest()
        self._put(digest, len(data), io.BytesIO(data).read, stage)
        return digest

    def _put(self, digest: str, size: int, read: Callable[[int], bytes], stage: str) -> None:
        """Send what `read` gives in pieces, unless the device has it. Asking each time also keeps it in the cache."""
        if self.request("has", stage=stage, digest=digest)[0].get("has"):
            return
        offset = 0
        while True:
            piece = read(_PIECE)
            self.request("put", stage=stage, payload=memoryview(piece), digest=digest, offset=offset, size=size)
            offset += len(piece)
            if offset >= size or not piece:
                return

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
            most = self._limits.reply if exchange.op in _LARGE_REPLIES else _SMALL_REPLY
            header_size, payload_size = frames.decode_prefix(bytes(prefix), most)
            text = bytes(self._take(exchange, ready, header_size))
            header = frames.decode_header(text, payload_size)
            if header.get("number") != self._number:
                raise frames.FrameError(f"reply number {header.get('number')!r} to request {self._number}")
            self._note_moment(exchange, header)
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
        """Return when the line is ready. Until then: drain the log, watch the clock."""
        while True:
            now = time.monotonic()
            if now >= exchange.deadline:
                raise self._late(exchange)
            found = {key.fd for key, _ in ready.select(exchange.deadline - now)}
            if self._wire.log in found and not self._drain():
                ready.unregister(self._wire.log)
            if found - {self._wire.log}:
                return

    def _late(self, exchange: _Exchange) -> DeviceFailure | TargetLost:
        if self._reachable is not None and not self._reachable():
            self._end()
            return TargetLost(f"{self._label}: the device does not answer any more; bring it back, then go on")
        return self._fatal(exchange, "timeout", f"no answer to {exchange.op!r} within {exchange.seconds:g} s")

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

    def _note_moment(self, exchange: _Exchange, header: Mapping[str, Any]) -> None:
        clock, boot, before = duration(header, "clock"), header.get("boot"), self.moment
        if not isinstance(boot, str):
            raise frames.FrameError("a reply without the boot of its device")
        if before is not None and boot != before.boot:
            self._end()
            raise TargetLost(f"{self._label}: the device has started anew; what was being measured is lost")
        if before is not None and clock < before.device:
            raise frames.FrameError(f"its clock went back from {before.device!r} to {clock!r}")
        self.moment = Moment(exchange.sent, time.monotonic(), clock, boot)

    def _refusal(self, exchange: _Exchange, told: Any) -> DeviceFailure | TargetLost:
        if not isinstance(told, dict) or not isinstance(told.get("kind"), str):
            raise frames.FrameError("a failure without a kind")
        if told["kind"] not in _KINDS and told["kind"] != _LOST:
            raise frames.FrameError(f"a failure of the unknown kind {told['kind'][:_SHOWN]!r}")
        message, trace = _one_line(str(told.get("message", "")), _WORDS), told.get("traceback")
        if told["kind"] == "crash":  # a card's context, say, is of no use to the next model after an illegal access
            self._end()
        if told["kind"] == _LOST:
            return TargetLost(f"{self._label}: {message}; what was being measured is lost")
        return DeviceFailure(
            Failure(
                kind=told["kind"],
                stage=exchange.stage,
                message=f"{self._label}: {message}",
                traceback=None if trace is None else str(trace)[-_LOG_TAIL:],
            ),
            advised=told.get("advised") is True,
        )

    def _ended(self, exchange: _Exchange) -> DeviceFailure | TargetUnavailable:
        how = self._wire.ended(wait=_GOODBYE)
        if how is None:
            return self._fatal(exchange, "protocol", "the agent closed its output but runs on")
        if how.code in (None, codes.ENDED):
            self._end()
            if self.moment is None:  # nothing has ever been heard
                return TargetUnavailable(f"{self._label}: {how.said}")
            return TargetLost(f"{self._label}: the connection is gone: {how.said}; bring it back, then go on")
        if how.code == codes.OUT_OF_MEMORY:
            limit = self._limits.memory >> 20
            failure = self._fatal(exchange, "oom", f"the process grew over its limit of {limit} MiB").failure
            told = [line for line in (failure.traceback or "").splitlines() if line.startswith(codes.GUARD_SAYS)]
            if not told:
                return DeviceFailure(failure)
            message = f"{self._label}: {told[-1].removeprefix(codes.GUARD_SAYS)}"
            return DeviceFailure(failure.model_copy(update={"message": message}))
        return self._fatal(exchange, "crash", f"the process died during {exchange.op!r}: {how.said}")

    def _garbled(self, error: Exception) -> TargetLost:
        """The agent's answer cannot be read, so nothing is known of the model."""
        self._end()
        return TargetLost(
            f"{self._label}: the agent answered garbage: {_why(error)}; what was being measured is lost; check the "
            "device, or start again"
        )

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


def shapes_of(feeds: Sequence[Feed]) -> list[dict[str, list[int]]]:
    """Dimensions of each feed by input, every combination once."""
    found: dict[str, dict[str, list[int]]] = {}
    for feed in feeds:
        shapes = {name: list(value.shape) for name, value in feed.items()}
        found[repr(sorted(shapes.items()))] = shapes
    return list(found.values())


def duration(reply: Mapping[str, Any], key: str) -> float:
    """A duration out of a reply, seconds. Raises FrameError if it is no number from 0 to a few centuries."""
    value = reply.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _AGES:
        raise frames.FrameError(f"{key!r} is {value!r}, not a duration")
    return float(value)


def _ports(reply: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A model's inputs or outputs out of a reply. Raises FrameError unless each is a table with a name."""
    ports = reply.get(key)
    if not isinstance(ports, list):
        raise frames.FrameError(f"{key!r} is no list")
    for port in ports:
        if not isinstance(port, dict) or not isinstance(port.get("name"), str):
            raise frames.FrameError(f"one of {key!r} has no name")
    return ports


def _why(error: Exception) -> str:
    """What does not fit about a reply, as one line of bounded length."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return _one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", _SHOWN)
    if isinstance(error, KeyError):
        return _one_line(f"it has no {error}", _SHOWN)
    return _one_line(str(error), _SHOWN) or "it has another form than was asked for"


def _one_line(text: str, most: int) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * most]).split())[:most]
