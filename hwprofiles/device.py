"""A Device: an open target. Measure on it, infer on it, ask which kernels ran.

with open_device(find_target("local"), work=folder) as device:
    measurement = device.measure(model, inputs, baseline=original)
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hwprofiles.agent.archive import build_agent
from hwprofiles.agent.client import AgentClient, Feed, Limits
from hwprofiles.errors import DeviceFailure, TargetUnavailable
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.lease import Lease
from hwprofiles.measure import Model, measure
from hwprofiles.measurement import Kernel, Measurement
from hwprofiles.registry import RUNTIMES, TRANSPORTS, load_plugin
from hwprofiles.runtimes.protocol import Runtime
from hwprofiles.scenario import SEARCH, Scenario
from hwprofiles.target import Target
from hwprofiles.transports.protocol import Channel, Transport

Outputs = dict[str, np.ndarray[Any, Any]]

_PROTOCOL = 1
_TURN = 5.0  # seconds that inference holds its share of the device before it lets others in
_HANDLE = "candidate"  # the session that measuring and inference share
_CACHE_BYTES = 2 << 30
_REQUEST_SECONDS, _REQUEST_BYTES, _REQUEST_BATCHES = 0.1, 8 << 20, 32  # of batches that travel together


def open_device(target: Target, *, work: Path) -> Device:
    """Start the target's agent and read its fingerprint. `work` is a folder for its files and its cache of models.

    Raises `TargetUnavailable` (device, interpreter or runtime is not there) and `BadProfile`, each with what
    to do.
    """
    transport: Transport = load_plugin(TRANSPORTS, target.transport, target=target.name)
    runtime: Runtime = load_plugin(RUNTIMES, target.runtime, target=target.name)
    return Device(target, transport, runtime, work)


class Device:
    """An open target. The first process stays and keeps the baseline open; others start as they are needed.

    Options of the target that count here: `quiet_wait` and `quiet_wait_final` (seconds to wait for a quiet
    machine), `lease_wait` (seconds to queue for the device), `cache_bytes` (of models on the device),
    `address_limit` (false: no limit of the address space besides the memory watchdog).
    """

    def __init__(self, target: Target, transport: Transport, runtime: Runtime, work: Path) -> None:
        self.target = target
        self._starter = _Starter(target, transport, runtime, work)
        self._lease = Lease(transport.device_id(target), wait=float(target.options.get("lease_wait", 900.0)))
        self._digests: dict[tuple[str, int, int, int], str] = {}
        self._inferring: set[int] = set()
        self._slots = [_Slot(self._starter)]
        try:
            self._slots[0].agent()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fingerprint(self) -> Fingerprint:
        """What was really there when the device was opened."""
        assert self._starter.fingerprint is not None  # set by the first agent, without which there is no Device
        return self._starter.fingerprint

    def measure(
        self,
        model: Path,
        inputs: Sequence[Feed],
        *,
        baseline: Path | None = None,
        scenario: Scenario = SEARCH,
    ) -> Measurement:
        """Latency (paired with `baseline` if given) and memory. What goes wrong with the model is in the record.

        `inputs` are used in turn; they must have the scenario's batch already. Raises `TargetBusy`,
        `TargetUnavailable`, and `OSError` if a model file cannot be read.
        """
        self._refuse_while_inferring("measure")
        subject = self._model(model)
        reference = self._model(baseline) if baseline is not None else None
        slot = self._slots[0]
        with self._lease.exclusive(f"timing on {self.target.name}"), slot.lock:
            return measure(
                _MeasuringAgents(slot, self._starter),
                self.target,
                self.fingerprint,
                subject,
                inputs,
                baseline=reference,
                scenario=scenario,
            )

    def kernels(self, model: Path, inputs: Feed, *, runs: int = 2) -> tuple[Kernel, ...]:
        """Every kernel that really runs, from the runtime's profile with default options.

        Raises `DeviceFailure`.
        """
        subject = self._model(model)
        slot = self._slots[0]
        with self._lease.shared(), slot.lock:
            agent = slot.agent()
            agent.put(subject.path, subject.digest)
            reply, _ = agent.request("kernels", stage="kernels", feeds=[inputs], digest=subject.digest, runs=runs)
            with agent.reading("kernels"):
                return tuple(Kernel.model_validate(kernel) for kernel in reply["kernels"])

    def infer(self, model: Path, batches: Iterable[Feed], *, workers: int = 1) -> Generator[Outputs]:
        """Outputs of each batch by name, in order, computed by `workers` processes.

        A few batches are in flight, never all of them. Finish or close the iterator before measuring: it shares the
        lease of the device. Raises `DeviceFailure`.
        """
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        subject = self._model(model)
        while len(self._slots) < workers:
            self._slots.append(_Slot(self._starter))
        return self._infer(subject, iter(batches), self._slots[:workers])

    def close(self) -> None:
        """End every process of this device."""
        for slot in self._slots:
            with slot.lock:
                slot.close()

    def _infer(self, model: Model, batches: Iterator[Feed], slots: list[_Slot]) -> Generator[Outputs]:
        idle: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in slots:
            idle.put(slot)
        pending: deque[Future[list[Outputs]]] = deque()
        pace = _Pace()
        more = True
        self._inferring.add(threading.get_ident())
        pool = ThreadPoolExecutor(len(slots), thread_name_prefix="infer")
        try:
            while more:
                with self._lease.shared():
                    until = time.monotonic() + _TURN
                    while more or pending:
                        while more and len(pending) < 2 * len(slots) and time.monotonic() < until:
                            some = list(itertools.islice(batches, pace.batches))
                            more = bool(some)
                            if some:
                                pending.append(pool.submit(_infer_some, idle, model, some, pace))
                        if not pending:
                            break
                        yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            pool.shutdown()
            self._inferring.discard(threading.get_ident())

    def _refuse_while_inferring(self, what: str) -> None:
        if threading.get_ident() in self._inferring:
            raise RuntimeError(f"finish or close the iterator of infer() before {what}(): it holds the device")

    def _model(self, path: Path) -> Model:
        """The file with its digest, which is computed once per state of the file."""
        facts = path.stat()
        key = (str(path), facts.st_size, facts.st_mtime_ns, facts.st_ino)
        if key not in self._digests:
            with path.open("rb") as file:
                self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return Model(path, self._digests[key])


class _Starter:
    """Starts agents of one target and introduces itself to them."""

    def __init__(self, target: Target, transport: Transport, runtime: Runtime, work: Path) -> None:
        self.target = target
        self.fingerprint: Fingerprint | None = None
        self._transport = transport
        self._runtime = runtime
        self._work = work
        self._program = build_agent(runtime.backend())

    def start(self) -> AgentClient:
        """A greeted agent. Raises `TargetUnavailable`."""
        target = self.target
        try:
            channel: Channel = self._transport.start(target, self._program, self._work)
        except OSError as error:
            raise TargetUnavailable(
                f"target {target.name!r}: cannot start its agent in {self._work}: {error}"
            ) from error
        agent = AgentClient(channel, Limits(target.timeout, target.memory_limit), f"target {target.name!r}")
        try:
            reply = self._greet(agent)
        except DeviceFailure as error:
            agent.close()
            hint = self._runtime.install_hint(target) if error.failure.kind == "unavailable" else ""
            log = (error.failure.traceback or "").strip().splitlines()[-1:]
            parts = [error.failure.message, *([] if hint else log), *([f"try: {hint}"] if hint else [])]
            raise TargetUnavailable("; ".join(parts)) from error
        providers = reply["runtime"]["providers"]
        if target.provider not in providers:
            agent.close()
            raise TargetUnavailable(
                f"target {target.name!r}: {target.runtime} there has no {target.provider!r}, only "
                f"{', '.join(providers)}; change `provider` in its profile or install a build that has it"
            )
        return agent

    def _greet(self, agent: AgentClient) -> dict[str, Any]:
        limited = bool(self.target.options.get("address_limit", True))
        space = self._runtime.address_space(self.target) if limited else 0
        reply, _ = agent.request(
            "hello",
            stage="start",
            protocol=_PROTOCOL,
            options=self._runtime.options(self.target),
            address_space=space,
            cache_bytes=int(self.target.options.get("cache_bytes", _CACHE_BYTES)),
        )
        with agent.reading("start"):
            fingerprint = self._fingerprint(reply, "watchdog+rlimit_as" if space else "watchdog")
            list(reply["runtime"]["providers"])
        if self.fingerprint is None:
            self.fingerprint = fingerprint
        return reply

    def _fingerprint(self, reply: Mapping[str, Any], guard: str) -> Fingerprint:
        facts, runtime = dict(reply["identity"]), reply["runtime"]
        environment = {**reply["environment"], "interpreter": facts.pop("interpreter"), "memory_guard": guard}
        return Fingerprint(
            **facts,
            runtime=runtime["runtime"],
            runtime_version=runtime["version"],
            provider=self.target.provider,
            threads=self.target.threads,
            environment=environment,
        )


class _Slot:
    """A place for one agent, refilled when the agent has failed. Hold `lock` while using it."""

    def __init__(self, starter: _Starter) -> None:
        self.lock = threading.Lock()
        self._starter = starter
        self._agent: AgentClient | None = None

    def agent(self) -> AgentClient:
        if self._agent is None or not self._agent.alive:
            self._agent = self._starter.start()
        return self._agent

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None


class _MeasuringAgents:
    """`hwprofiles.measure.Agents` for one slot."""

    def __init__(self, slot: _Slot, starter: _Starter) -> None:
        self._slot = slot
        self._starter = starter

    def resident(self) -> AgentClient:
        return self._slot.agent()

    @contextlib.contextmanager
    def fresh(self) -> Iterator[AgentClient]:
        agent = self._starter.start()
        try:
            yield agent
        finally:
            agent.close()


class _Pace:
    """How many batches go into one request: about a tenth of a second of work and a few megabytes.

    A round trip costs half a millisecond, and several on a busy machine, where it waits for its turn on a CPU. A slow
    batch goes alone, so that the deadline of a request stays one of a single inference.
    """

    def __init__(self) -> None:
        self.batches = 1

    def learn(self, seconds: float, sizes: int, count: int) -> None:
        """`count` batches took `seconds` and `sizes` bytes of inputs and outputs."""
        by_time = _REQUEST_SECONDS * count / max(seconds, 1e-6)
        by_size = _REQUEST_BYTES * count / max(sizes, 1)
        self.batches = max(1, min(int(by_time), int(by_size), _REQUEST_BATCHES))


def _infer_some(idle: queue.SimpleQueue[_Slot], model: Model, feeds: list[Feed], pace: _Pace) -> list[Outputs]:
    slot = idle.get()
    try:
        with slot.lock:
            agent = slot.agent()
            agent.open(_HANDLE, model.path, model.digest)
            agent.check_feeds(_HANDLE, feeds, stage="infer")
            start = time.perf_counter()
            _, arrays = agent.request("infer", stage="infer", feeds=feeds, handle=_HANDLE)
            seconds = time.perf_counter() - start
            outputs: list[Outputs] = [{} for _ in feeds]
            with agent.reading("infer"):
                for name, array in arrays.items():
                    number, _, name = name.partition("/")
                    outputs[int(number)][name] = array
    finally:
        idle.put(slot)
    sizes = sum(array.nbytes for tensors in (*feeds, *outputs) for array in tensors.values())
    pace.learn(seconds, sizes, len(feeds))
    return outputs
