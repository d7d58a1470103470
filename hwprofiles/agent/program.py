"""The agent: the program that runs on the device and does what its parent asks, one request at a time.

It travels as a single file (`hwprofiles.agent.archive`) and needs Python 3.9, numpy and the runtime. Its
parent can kill it at any moment: nothing it keeps is worth more than the time to make it again. Requests and
replies are frames (`hwprofiles.agent.frames`) on what were stdin and stdout; the model's own prints go to
stderr. When its input ends, the parent is gone and it dies at once, even in the middle of an inference.

Operations: hello, describe, pressure, has, put, prepare, open, close, warm, time, infer, kernels, memory, energy,
engine, exit.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import importlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hwprofiles.agent import (
    accelerator,
    codes,
    counters,
    emulation,
    energy,
    frames,
    lock,
    policy,
    probe,
    supervisor,
    timing,
)
from hwprofiles.agent.cache import BlobCache, Scratch
from hwprofiles.agent.feeds import Stored, unpack
from hwprofiles.agent.wire import Wire

PROTOCOL = 2
LOST = "lost"  # kind of a refusal that says nothing about the model

_STALE = "the lease of the device was lost to somebody else"
_HEARTBEAT = 60.0  # seconds after which a silent parent is held for lost by whoever keeps the lock for it
_LOCK_OPERATIONS = frozenset({"ping", "attempt", "leave", "holder", "evict"})
_OPERATIONS = frozenset(
    {
        "hello",
        "describe",
        "pressure",
        "policy",
        "has",
        "put",
        "prepare",
        "open",
        "close",
        "warm",
        "time",
        "check_outputs",
        "infer",
        "kernels",
        "memory",
        "energy",
        "engine",
    }
)

Reply = tuple[dict[str, Any], Mapping[str, Any]]


class Refused(Exception):
    """A request that cannot be served; becomes the failure in the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Agent:
    """What is kept between requests: the runtime, cached model files, opened sessions by handle."""

    def __init__(self, folder: Path) -> None:
        self.scratch: Scratch | None = None  # with the cache made by `hello`: a keeper of the lock needs no disk
        self._folder = folder
        self._lock: lock.DeviceLock | None = None
        self._stored = Stored()
        self._backend: Any = None
        self._options: dict[str, Any] = {}
        self._sessions: dict[str, Any] = {}
        self._import_only = 0
        self._ready: float | None = None  # seconds from the start of the program until it could open a model
        self._card = accelerator.NONE  # what the driver tells of the card that the runtime uses, if it uses one

    def serve(self, request: dict[str, Any], payload: bytearray) -> Reply:
        """Raises Refused, FrameError, ArrayError, OSError or one of the backend's errors."""
        op = request.get("op")
        if op in _LOCK_OPERATIONS:
            return self._serve_lock(str(op), request), {}
        if op not in _OPERATIONS:
            raise Refused("protocol", f"unknown operation {op!r}")
        if self._backend is None and op != "hello":
            raise Refused("protocol", f"{op!r} before 'hello'")
        if op == "put":
            return self._put(request, payload)
        self._refuse_stale(request)
        reply: Reply = getattr(self, "_" + op)(request, self._feeds(request, payload))
        self._refuse_stale(request)  # the claim may have been lost meanwhile, and somebody else may have timed
        return reply

    @property
    def patience(self) -> float | None:
        """Seconds for the next request to come. A keeper whose parent is cut off must not keep the device for ever."""
        return _HEARTBEAT if self._lock is not None and self._lock.busy else None

    def _serve_lock(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._lock is None:
                self._lock = lock.DeviceLock()
            if op == "attempt":
                return self._lock.attempt(request["name"], request["exclusive"], request["who"])
            if op == "leave":
                self._lock.leave(request["name"])
            if op == "evict":
                return {"done": self._lock.evict()}
            return {"holder": self._lock.holder()} if op == "holder" else {}
        except lock.LockError as error:
            raise Refused("unavailable", str(error)) from error

    def _refuse_stale(self, request: dict[str, Any]) -> None:
        if "token" in request and not lock.is_current(request["token"]):
            raise Refused(LOST, _STALE)

    def _watch_claim(self, request: dict[str, Any]) -> Callable[[], None]:
        """`_refuse_stale` for between the pairs: cheap, and soon, when somebody else was given the device by force."""
        if "token" not in request:
            return lambda: None
        try:
            current = lock.watch(request["token"])
        except lock.LockError as error:
            raise Refused(LOST, str(error)) from error

        def check() -> None:
            if not current():
                raise Refused(LOST, _STALE)

        return check

    def failure(self, error: Exception, stage: str) -> dict[str, Any]:
        """The `failure` of a reply: kind, one line, and the traceback."""
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Refused):
            kind = error.kind
        elif isinstance(error, (frames.FrameError, frames.ArrayError)):
            kind = "unsupported"
        elif isinstance(error, accelerator.CardLost):
            kind = LOST
        elif isinstance(error, OSError):
            kind = "disk"
        else:
            kind, text = self._backend.classify(error, stage), self._backend.explain(error)
        told = {"kind": kind, "message": text[:2000], "traceback": traceback.format_exc()[-8000:]}
        return {**told, "advised": bool(getattr(error, "advised", False))}

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Exceptions that are an answer. Any other is a bug of the agent and ends it."""
        known: tuple[type[Exception], ...] = (
            Refused,
            accelerator.CardLost,
            frames.FrameError,
            frames.ArrayError,
            OSError,
        )
        return known + tuple(self._backend.ERRORS) if self._backend is not None else known

    def _hello(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        if request["protocol"] != PROTOCOL:
            raise Refused("protocol", f"agent speaks protocol {PROTOCOL}, parent {request['protocol']}")
        try:
            numpy = importlib.import_module("numpy")
            self._backend = importlib.import_module("agent_backend")
        except (ImportError, OSError) as error:
            raise Refused("unavailable", f"{sys.executable} cannot import the runtime: {error}") from error
        self.scratch = Scratch(self._folder / "scratch")
        self._options = {**request["options"], "scratch": str(self._scratch_folder.absolute())}
        self._cache = BlobCache(self._folder / "blobs")
        self._cache.limit = request["cache_bytes"]
        self._import_only = probe.memory()["now"]
        self._ready = counters.age()
        guard = os.environ.get(supervisor.GUARD, "none")
        if request["address_space"]:
            with contextlib.suppress(OSError, ValueError):  # macOS refuses it, and so does a lower limit from outside
                resource.setrlimit(resource.RLIMIT_AS, (request["address_space"], resource.RLIM_INFINITY))
                guard += "+rlimit_as"
        facts = {
            "identity": {**probe.identity(), "numpy": numpy.__version__},
            "environment": {**probe.environment(), "memory_guard": guard, "emulator": emulation.noticed()},
        }
        return facts, {}

    def _describe(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        """The runtime, after the files that it needs were sent; its error if its provider does not really run."""
        if request["files"]:
            self._backend.attach(
                {name: self._blob(digest) for name, digest in request["files"].items()}, str(self._scratch_folder)
            )
        facts = self._backend.describe(self._options)
        if self._options.get("provider") in facts["providers"] and hasattr(self._backend, "check"):
            self._backend.check(self._options)
        self._card = accelerator.attach(facts)
        return {"runtime": facts}, {}

    def _pressure(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        before = {**probe.pressure(), "card": self._card.reading()}
        time.sleep(request["seconds"])
        after = {**probe.pressure(), "card": self._card.reading()}
        return {"before": before, "after": after, "own": self._card.own()}, {}

    def _policy(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        return policy.serve(request), {}

    def _has(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        return {"has": self._cache.find(request["digest"]) is not None}, {}

    def _put(self, request: dict[str, Any], payload: bytearray) -> Reply:
        try:
            self._cache.add(request["digest"], request["offset"], request["size"], payload, self._scratch_folder)
        except ValueError as error:
            raise Refused("protocol", str(error)) from error
        except OSError as error:
            place, size = self._folder, request["size"] >> 20
            message = f"cannot keep a file of {size} MiB in {place}: {error.strerror}; free some space there"
            raise Refused("disk", message) from error
        return {}, {}

    def _prepare(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        """Build a model several times, where its runtime builds at all; the best stays for whoever opens it next."""
        if hasattr(self._backend, "prepare"):
            path = self._blob(request["digest"])
            self._backend.prepare(path, self._with_shapes(feeds), request["count"], feeds)
        return {}, {}

    def _open(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        # The handle's old session goes first: two at once would double the peak for nothing.
        self._drop(request["handle"])
        timing.move_memory(request.get("padding", 0))
        start = time.perf_counter()
        options = {**self._options, "shapes": request.get("shapes") or []}
        session = self._backend.Session(self._blob(request["digest"]), options)
        seconds = getattr(session, "load_seconds", time.perf_counter() - start)
        self._sessions[request["handle"]] = session
        return {"seconds": seconds, "inputs": session.inputs, "outputs": session.outputs}, {}

    def _close(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        self._drop(request["handle"])
        return {}, {}

    def _warm(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        session = self._session(request["handle"])
        result = timing.warm_up(session, feeds, request["seconds"], request["iterations"], request["cap"])
        samples = result.pop("samples")
        result["count"] = timing.block_length(
            samples, request["block_seconds"], request["block_iterations"], len(feeds)
        )
        told = accelerator.about(session, feeds[0])
        return {**result, "typical": timing.median(samples[-20:]), "session": told}, {}

    def _time(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        sides = {side: self._session(handle) for side, handle in request["sides"].items()}
        blocks = timing.time_pairs(
            sides,
            feeds,
            request["counts"],
            request["pairs"],
            request["seed"],
            request["budget"],
            self._watch_claim(request),
            self._card.look if self._card.present else timing.look_at_cpu,
        )
        wall = array.array("d")
        for block in blocks:
            wall.extend(block.pop("wall"))
            for name in ("enqueue", "end_to_end"):
                if name in block:
                    block[name] = timing.median(block[name]) if block[name] else None
        return {"blocks": blocks}, {"wall": wall}

    def _infer(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        session = self._session(request["handle"])
        found = {}
        run_all = getattr(session, "run_all", None)
        answers = run_all(feeds) if run_all is not None else (session.run(feed) for feed in feeds)
        for number, outputs in enumerate(answers):
            for index, port in enumerate(session.outputs):
                found["{}/{}".format(number, port["name"])] = outputs[index]
        return {}, found

    def _check_outputs(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        """One inference of each feed: which floating-point outputs hold something that is not finite."""
        numpy = importlib.import_module("numpy")
        session, found = self._session(request["handle"]), []
        for number, feed in enumerate(feeds):
            for port, value in zip(session.outputs, session.run(feed)):  # noqa: B905  (Python 3.9)
                if isinstance(value, numpy.ndarray) and value.dtype.kind in "fc":
                    count = int(value.size - numpy.isfinite(value).sum())
                    if count:
                        found.append({"feed": number, "output": port["name"], "count": count, "size": int(value.size)})
        return {"nonfinite": found}, {}

    def _kernels(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        found = self._backend.kernels(
            self._blob(request["digest"]), self._options, feeds[0], request["runs"], str(self._scratch_folder)
        )
        return {"kernels": found}, {}

    def _memory(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        """Peaks of loading and of running, apart. Meant for a process that has done nothing else."""
        reset = probe.reset_peak()
        on_card = self._card.memory()
        start = time.perf_counter()
        options = {**self._options, "shapes": request.get("shapes") or []}
        session = self._backend.Session(self._blob(request["digest"]), options)
        if hasattr(session, "memory"):  # the model lives in a process of its own
            return {**session.memory(feeds[0], request["iterations"]), "reset": True, "cgroup_peak": None}, {}
        load = probe.memory()["peak"]
        reset = probe.reset_peak() and reset
        session.run(feeds[0])
        cold = None if self._ready is None else self._ready + time.perf_counter() - start
        for _ in range(request["iterations"] - 1):
            session.run(feeds[0])
        run = probe.memory()["peak"]
        peaks = {"import_only": self._import_only, "load_peak": load, "run_peak": run, "reset": reset}
        told = {"accelerator": accelerator.grown(on_card, self._card.memory())} if self._card.present else {}
        return {**peaks, **told, "cold": cold, "cgroup_peak": counters.cgroup_peak()}, {}

    def _energy(self, request: dict[str, Any], feeds: list[timing.Feed]) -> Reply:
        """Energy at rest and at work, in turn; no slices where the machine has no counter that may be read."""
        session = self._session(request["handle"])
        resident = timing.is_resident(session)
        if hasattr(session, "time_block") and not resident:  # starting and loading would be counted as inference
            return {"source": "", "slices": []}, {}
        found: energy.AnyCounter
        if not resident:
            found = energy.Counters()
        elif self._card.card is not None:
            found = energy.CardCounter(self._card.card, self._card.own())
        else:  # the processor's counter says nothing of what the card used
            return {"source": "", "slices": []}, {}
        if not found.source:
            return {"source": "", "slices": []}, {}

        def work() -> int:
            return int(timing.time_block(session, feeds, request["count"])["inferences"])

        try:
            slices = energy.slices_within(found, request["seconds"], request["slices"])
        except energy.TooShort as error:
            return {"source": "", "slices": [], "why": str(error)}, {}
        return {"source": found.source, "slices": energy.spend(found, work, request["seconds"], slices)}, {}

    def _engine(self, request: dict[str, Any], _: list[timing.Feed]) -> Reply:
        """What an open session really runs, for runtimes that build something from the model."""
        session = self._session(request["handle"])
        if not hasattr(session, "engine"):
            raise Refused("unsupported", "this runtime builds no engine; the model itself is what runs")
        numpy = importlib.import_module("numpy")
        return {}, {"engine": numpy.frombuffer(session.engine(), dtype=numpy.uint8)}

    def _with_shapes(self, feeds: list[timing.Feed]) -> dict[str, Any]:
        return {**self._options, "shapes": [{name: list(value.shape) for name, value in f.items()} for f in feeds]}

    @property
    def _scratch_folder(self) -> Path:
        assert self.scratch is not None  # nothing that needs it is served before `hello`
        return self.scratch.folder

    def _blob(self, digest: str) -> str:
        path = self._cache.find(digest)
        if path is None:
            raise Refused("protocol", f"file {digest[:12]} was not sent")
        return str(path)

    def _feeds(self, request: dict[str, Any], payload: bytearray) -> list[timing.Feed]:
        """Those in the request, or those that an earlier one has put into the cache."""
        stored = request.get("stored")
        if stored is None:
            return unpack(request.get("feeds", 0), frames.unpack_arrays(request.get("arrays", []), payload))
        return self._stored.read(stored, request["feeds"], self._blob)

    def _drop(self, handle: str) -> None:
        """Let go of a session, if there is one. Some have to give back what the next one needs."""
        session = self._sessions.pop(handle, None)
        if hasattr(session, "close"):
            session.close()

    def _session(self, handle: str) -> Any:
        if handle not in self._sessions:
            raise Refused("protocol", f"no session {handle!r} is open")
        return self._sessions[handle]


def _boot() -> str:
    """Changes with every start of the machine; "" where it does not tell."""
    return hashlib.sha256((probe.read("/proc/sys/kernel/random/boot_id") or "").encode()).hexdigest()[:16]


def main() -> None:
    """The worker of `agent.pyz FOLDER MEMORY_LIMIT`; `hwprofiles.agent.supervisor` watches over it."""
    folder = Path(sys.argv[1])
    wire = Wire()
    agent = Agent(folder)
    boot = _boot()
    while True:
        taken = wire.next(agent.patience)
        if taken is None:
            os._exit(codes.ENDED)
        request, payload = taken
        if request.get("op") == "exit":
            if agent.scratch is not None:
                agent.scratch.remove()
            os._exit(0)  # tearing down native sessions has nothing to give and may crash
        try:
            reply, arrays = agent.serve(request, payload)
            specs, parts = frames.pack_arrays(arrays)
        except agent.errors as error:
            reply, parts = {"failure": agent.failure(error, str(request.get("op")))}, []
        else:
            reply = {"arrays": specs, **reply}
        wire.send({"number": request.get("number"), "boot": boot, "clock": time.monotonic(), **reply}, parts)
        del taken, request, payload, parts
