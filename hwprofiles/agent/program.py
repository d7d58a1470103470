"""The agent: the program that runs on the device and does what its parent asks, one request at a time.

It travels as a single file (`hwprofiles.agent.archive`) and needs Python 3.9, numpy and the runtime. Its
parent can kill it at any moment: nothing it keeps is worth more than the time to make it again. Requests and
replies are frames (`hwprofiles.agent.frames`) on what were stdin and stdout; the model's own prints go to
stderr. When its input ends, the parent is gone and it dies at once, even in the middle of an inference.

Operations: hello, pressure, has, put, open, close, warm, time, infer, kernels, memory, exit.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import importlib
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwprofiles.agent import frames, probe, timing
from hwprofiles.agent.cache import BlobCache, Scratch

PROTOCOL = 1

Reply = tuple[dict[str, Any], Mapping[str, Any]]


class Refused(Exception):
    """A request that cannot be served; becomes the failure in the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Wire:
    """Frames in and out.

    A thread of its own reads: the end of the input is noticed even during an inference.
    """

    def __init__(self) -> None:
        # Native code may print to fd 1 at any time; it must not be able to reach the protocol.
        self._in = os.fdopen(os.dup(0), "rb", buffering=0)
        self._out = os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        self._requests: queue.Queue[tuple[dict[str, Any], bytearray]] = queue.Queue(maxsize=2)
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> tuple[dict[str, Any], bytearray]:
        return self._requests.get()

    def send(self, header: Mapping[str, Any], parts: list[memoryview]) -> None:
        size = sum(part.nbytes for part in parts)
        for piece in [memoryview(frames.encode(header, size)), *parts]:
            while piece.nbytes:
                piece = piece[os.write(self._out, piece) :]

    def _read(self) -> None:
        try:
            while True:
                header_size, payload_size = frames.decode_prefix(bytes(self._take(frames.PREFIX.size)))
                header = bytes(self._take(header_size))
                payload = self._take(payload_size)
                self._requests.put((frames.decode_header(header, payload_size), payload))
        except (frames.FrameError, MemoryError, OSError) as error:
            os.write(2, f"agent: cannot read its requests: {error}\n".encode())
            os._exit(76)

    def _take(self, size: int) -> bytearray:
        """Exactly `size` bytes. The end of the input ends the process, whatever it is doing."""
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            count = self._in.readinto(view[got:])
            if not count:
                os._exit(0)
            got += count
        return data


class Agent:
    """What is kept between requests: the runtime, cached model files, opened sessions by handle."""

    def __init__(self, folder: Path) -> None:
        self.scratch = Scratch(folder / "scratch")
        self._cache = BlobCache(folder / "blobs")
        self._backend: Any = None
        self._options: dict[str, Any] = {}
        self._sessions: dict[str, Any] = {}
        self._import_only = 0

    def serve(self, request: dict[str, Any], payload: bytearray) -> Reply:
        """Raises Refused, FrameError, ArrayError, OSError or one of the backend's errors."""
        op = request.get("op")
        if op == "put":
            return self._put(request, payload)
        if op not in (
            "hello",
            "pressure",
            "has",
            "open",
            "close",
            "warm",
            "time",
            "infer",
            "kernels",
            "memory",
        ):
            raise Refused("protocol", f"unknown operation {op!r}")
        if self._backend is None and op != "hello":
            raise Refused("protocol", f"{op!r} before 'hello'")
        reply: Reply = getattr(self, "_" + op)(request, _feeds(request, payload))
        return reply

    def failure(self, error: Exception, stage: str) -> dict[str, Any]:
        """The `failure` of a reply: kind, one line, and the traceback."""
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Refused):
            kind = error.kind
        elif isinstance(error, (frames.FrameError, frames.ArrayError)):
            kind = "unsupported"
        elif isinstance(error, OSError):
            kind = "disk"
        else:
            kind, text = self._backend.classify(error, stage), self._backend.explain(error)
        return {"kind": kind, "message": text[:2000], "traceback": traceback.format_exc()[-8000:]}

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Exceptions that are an answer. Any other is a bug of the agent and ends it."""
        known: tuple[type[Exception], ...] = (Refused, frames.FrameError, frames.ArrayError, OSError)
        return known + tuple(self._backend.ERRORS) if self._backend is not None else known

    def _hello(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        if request["protocol"] != PROTOCOL:
            raise Refused("protocol", f"agent speaks protocol {PROTOCOL}, parent {request['protocol']}")
        try:
            numpy = importlib.import_module("numpy")
            self._backend = importlib.import_module("agent_backend")
        except (ImportError, OSError) as error:
            raise Refused("unavailable", f"{sys.executable} cannot import the runtime: {error}") from error
        self._options = request["options"]
        self._cache.limit = request["cache_bytes"]
        self._import_only = probe.memory()["now"]
        if request["address_space"]:
            resource.setrlimit(resource.RLIMIT_AS, (request["address_space"], resource.RLIM_INFINITY))
        facts = {
            "identity": {**probe.identity(), "numpy": numpy.__version__},
            "environment": probe.environment(),
            "runtime": self._backend.describe(),
        }
        return facts, {}

    def _pressure(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        before = probe.pressure()
        time.sleep(request["seconds"])
        return {"before": before, "after": probe.pressure()}, {}

    def _has(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        return {"has": self._cache.find(request["digest"]) is not None}, {}

    def _put(self, request: dict[str, Any], payload: bytearray) -> Reply:
        try:
            self._cache.add(request["digest"], request["offset"], request["size"], payload, self.scratch.folder)
        except ValueError as error:
            raise Refused("protocol", str(error)) from error
        return {}, {}

    def _open(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        # The handle's old session goes first: two at once would double the peak for nothing.
        self._sessions.pop(request["handle"], None)
        start = time.perf_counter()
        session = self._backend.Session(self._blob(request["digest"]), self._options)
        seconds = time.perf_counter() - start
        self._sessions[request["handle"]] = session
        return {"seconds": seconds, "inputs": session.inputs, "outputs": session.outputs}, {}

    def _close(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        self._sessions.pop(request["handle"], None)
        return {}, {}

    def _warm(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        run = self._session(request["handle"]).run
        result = timing.warm_up(run, feeds, request["seconds"], request["iterations"], request["cap"])
        samples = result.pop("samples")
        result["count"] = timing.block_length(
            samples, request["block_seconds"], request["block_iterations"], len(feeds)
        )
        return {**result, "first": samples[0], "typical": timing.median(samples[-20:])}, {}

    def _time(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        runs = {side: self._session(handle).run for side, handle in request["sides"].items()}
        blocks = timing.time_pairs(runs, feeds, request["counts"], request["pairs"], request["seed"], request["budget"])
        wall = array.array("d")
        for block in blocks:
            wall.extend(block.pop("wall"))
        return {"blocks": blocks}, {"wall": wall}

    def _infer(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        session = self._session(request["handle"])
        found = {}
        for number, feed in enumerate(feeds):
            outputs = session.run(feed)
            for index, port in enumerate(session.outputs):
                found["{}/{}".format(number, port["name"])] = outputs[index]
        return {}, found

    def _kernels(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        found = self._backend.kernels(
            self._blob(request["digest"]), self._options, feeds[0], request["runs"], str(self.scratch.folder)
        )
        return {"kernels": found}, {}

    def _memory(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        """Peaks of loading and of running, apart. Meant for a process that has done nothing else."""
        reset = probe.reset_peak()
        session = self._backend.Session(self._blob(request["digest"]), self._options)
        load = probe.memory()["peak"]
        reset = probe.reset_peak() and reset
        for _ in range(request["iterations"]):
            session.run(feeds[0])
        run = probe.memory()["peak"]
        return {"import_only": self._import_only, "load_peak": load, "run_peak": run, "reset": reset}, {}

    def _blob(self, digest: str) -> str:
        path = self._cache.find(digest)
        if path is None:
            raise Refused("protocol", f"model {digest[:12]} was not sent")
        return str(path)

    def _session(self, handle: str) -> Any:
        if handle not in self._sessions:
            raise Refused("protocol", f"no session {handle!r} is open")
        return self._sessions[handle]


def _feeds(request: dict[str, Any], payload: bytearray) -> list[timing.Feed]:
    """Arrays are named `<number of the feed>/<input>`."""
    feeds: list[timing.Feed] = [{} for _ in range(request.get("feeds", 0))]
    for name, value in frames.unpack_arrays(request.get("arrays", []), payload).items():
        number, _, name = name.partition("/")
        feeds[int(number)][name] = value
    return feeds


def _harden(parent: int) -> None:
    """First to be killed when memory runs out, no core files, dead when the parent is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # refused in some containers; the parent's watchdog does not need it
        Path("/proc/self/oom_score_adj").write_text("800")
    if parent:
        # The reading thread cannot end a process that hangs inside native code with the GIL held; the kernel
        # can.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(0)  # it died before we asked


def main() -> None:
    """`agent.pyz FOLDER PARENT_PID`; a pid of 0 means that the parent is on another machine."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    _harden(parent)
    wire = Wire()
    agent = Agent(folder)
    while True:
        request, payload = wire.next()
        if request.get("op") == "exit":
            agent.scratch.remove()
            os._exit(0)  # tearing down native sessions has nothing to give and may crash
        number = request.get("number")
        try:
            reply, arrays = agent.serve(request, payload)
            specs, parts = frames.pack_arrays(arrays)
        except agent.errors as error:
            failure = agent.failure(error, str(request.get("op")))
            wire.send({"number": number, "failure": failure}, [])
        else:
            wire.send({"number": number, "arrays": specs, **reply}, parts)
        del request, payload
