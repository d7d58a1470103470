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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hwprofiles.agent.archive import build_agent
from hwprofiles.agent.client import AgentClient, Feed, Limits, shapes_of
from hwprofiles.errors import BadProfile, DeviceFailure, TargetUnavailable
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.lease import Keeper
from hwprofiles.measure import Model, measure, timed_inputs
from hwprofiles.measurement import Kernel, Measurement
from hwprofiles.quiet import Patience
from hwprofiles.registry import RUNTIMES, TRANSPORTS, load_plugin
from hwprofiles.runtimes.protocol import CONDITIONS, Runtime, digests, shipped
from hwprofiles.scenario import SEARCH, Scenario
from hwprofiles.target import Target
from hwprofiles.transports.protocol import Channel, Transport

Outputs = dict[str, np.ndarray[Any, Any]]

_PROTOCOL = 2
_KEEPER_MEMORY = 256 << 20  # bytes; it imports neither numpy nor the runtime
_TURN = 5.0  # seconds that inference holds its share of the device before it lets others in
_HANDLE = "candidate"  # the session that measuring and inference share
_CACHE_BYTES = 2 << 30
_REQUEST_SECONDS, _REQUEST_BYTES, _REQUEST_BATCHES = 0.1, 8 << 20, 32  # of batches that travel together


def open_device(target: Target, *, work: Path) -> Device:
    """Start the target's agent and read its fingerprint. `work` is a folder for its files and its cache of models.

    Raises `TargetUnavailable` (device, interpreter or runtime is not there) and `BadProfile` (also if the target says
    that it is hardware and is emulated), each with what to do.
    """
    transport: Transport = load_plugin(TRANSPORTS, target.transport, target=target.name)
    runtime: Runtime = load_plugin(RUNTIMES, target.runtime, target=target.name)
    return Device(target, transport, runtime, work)


def open_keeper(target: Target, *, work: Path) -> Keeper:
    """Who holds the target's device, and taking it from them: needs no working runtime there. Close it afterwards.

    Raises `BadProfile`; the first use raises `TargetUnavailable` if the device or its interpreter is not there.
    """
    return _make_keeper(target, load_plugin(TRANSPORTS, target.transport, target=target.name), work)


class Device:
    """An open target. The first process stays and keeps the baseline open; others start as they are needed.

    A process that failed is replaced by the next call. So is everything after a `TargetLost` (the connection broke,
    the device started anew, the lease was taken): the call that raised it says nothing about its model, and may simply
    be made again. What comes back must be what was opened: another fingerprint is `TargetUnavailable`.

    Options of the target that count here: `quiet_wait` and `quiet_wait_final` (seconds to wait for a quiet
    machine), `lease_wait` (seconds to queue for the device), `cache_bytes` (of models on the device),
    `address_limit` (false: no limit of the address space besides the memory watchdog).
    """

    def __init__(self, target: Target, transport: Transport, runtime: Runtime, work: Path) -> None:
        self.target = target
        self._starter = _Starter(target, transport, runtime, work)
        self._keeper = _make_keeper(target, transport, work)
        self._starter.reachable = self._keeper.responds
        self._digests: dict[tuple[str, int, int, int], str] = {}
        self._inferring: set[int] = set()
        self._patience = Patience()
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
        """What was really there when the device was opened, or found again after it was lost."""
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
        `TargetUnavailable`, `TargetLost`, and `OSError` if a model file cannot be read.
        """
        self._refuse_while_inferring("measure")
        subject = self._model(model)
        reference = self._model(baseline) if baseline is not None else None
        slot = self._slots[0]
        with self._keeper.exclusive(f"timing on {self.target.name}") as token, slot.lock:
            agents = _MeasuringAgents(slot, self._starter, self._keeper, token)
            agents.resident()  # a device that was started anew has another fingerprint from here on
            return measure(
                agents,
                self.target,
                self.fingerprint,
                subject,
                inputs,
                baseline=reference,
                scenario=scenario,
                patience=self._patience,
            )

    def kernels(self, model: Path, inputs: Feed, *, runs: int = 2) -> tuple[Kernel, ...]:
        """Every kernel that really runs, from the runtime's profile with default options.

        Raises `DeviceFailure`, `TargetBusy`, `TargetUnavailable`, `TargetLost`.
        """
        subject = self._model(model)
        slot = self._slots[0]
        with self._keeper.shared(), slot.lock:
            agent = slot.agent(self._keeper.boot)
            agent.put(subject.path, subject.digest)
            reply, _ = agent.request("kernels", stage="kernels", feeds=[inputs], digest=subject.digest, runs=runs)
            with agent.reading("kernels"):
                return tuple(Kernel.model_validate(kernel) for kernel in reply["kernels"])

    def engine(self, model: Path, inputs: Sequence[Feed], scenario: Scenario = SEARCH) -> bytes:
        """What the runtime built from the model, as `measure` with the same inputs and scenario opens it.

        The one that was measured, where it is still in the device's cache. Raises `DeviceFailure` (of the kind
        "unsupported" for a runtime that runs the model as it is), `TargetBusy`, `TargetUnavailable`, `TargetLost`.
        """
        subject = self._model(model)
        slot = self._slots[0]
        with self._keeper.shared(), slot.lock:
            agent = slot.agent(self._keeper.boot)
            shapes = shapes_of(timed_inputs(inputs, scenario))
            agent.open(_HANDLE, subject.path, subject.digest, fresh=True, shapes=shapes)
            _, arrays = agent.request("engine", stage="engine", handle=_HANDLE)
            with agent.reading("engine"):
                return arrays["engine"].tobytes()

    def infer(self, model: Path, batches: Iterable[Feed], *, workers: int = 1) -> Generator[Outputs]:
        """Outputs of each batch by name, in order, computed by `workers` processes.

        A few batches are in flight, never all of them. Finish or close the iterator before measuring: it shares the
        lease of the device. Raises `DeviceFailure`, `TargetBusy`, `TargetUnavailable`, `TargetLost`.
        """
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        subject = self._model(model)
        while len(self._slots) < workers:
            self._slots.append(_Slot(self._starter))
        return self._infer(subject, iter(batches), self._slots[:workers])

    def holder(self) -> str | None:
        """Who holds the device alone right now, in words; None if nobody does. Raises `TargetUnavailable`."""
        return self._keeper.holder()

    def release(self, force: bool) -> str:
        """Take the device from whoever holds it; see `hwprofiles.lease.Keeper.release`."""
        return self._keeper.release(force)

    def close(self) -> None:
        """End every process of this device."""
        for slot in self._slots:
            with slot.lock:
                slot.close()
        self._keeper.close()

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
                with self._keeper.shared():
                    until = time.monotonic() + _TURN
                    while more or pending:
                        while more and len(pending) < 2 * len(slots) and time.monotonic() < until:
                            some = list(itertools.islice(batches, pace.batches))
                            more = bool(some)
                            if some:
                                pending.append(pool.submit(_infer_some, idle, self._keeper.boot, model, some, pace))
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
        self.reachable: Callable[[], bool] | None = None
        self._program = build_agent(runtime.backend(), shipped(runtime))

    def start(self) -> AgentClient:
        """A greeted agent. Raises `TargetUnavailable`."""
        target = self.target
        agent = _start_agent(target, self._transport, self._program, self._work, self.reachable)
        try:
            reply = self._greet(agent)
        except DeviceFailure as error:
            agent.close()
            missing = error.failure.kind == "unavailable" and not error.advised
            hint = self._runtime.install_hint(target) if missing else ""
            log = [] if error.advised else (error.failure.traceback or "").strip().splitlines()[-1:]
            parts = [error.failure.message, *([] if hint else log), *([f"try: {hint}"] if hint else [])]
            raise TargetUnavailable("; ".join(parts)) from error
        except BaseException:  # the target is gone, its profile asks for the impossible, or the user has had enough
            agent.close()
            raise
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
            cache_bytes=int(_number(self.target, "cache_bytes", _CACHE_BYTES)),
        )
        files = self._runtime.files(self.target)
        sent = digests(files)
        for name, path in files.items():
            agent.put(path, sent[name])
        described, _ = agent.request("describe", stage="start", files=sent)
        with agent.reading("start"):
            reply = {**reply, "runtime": dict(described["runtime"])}
            fingerprint = self._fingerprint(reply)
        _refuse_emulator(self.target, fingerprint)
        before = self.fingerprint
        if before is not None and before.key != fingerprint.key:
            raise TargetUnavailable(
                f"target {self.target.name!r} is not what it was when it was opened: "
                f"{_differences(before, fingerprint)}; open it again to go on with what is there now"
            )
        if before is None or before.boot_id != fingerprint.boot_id:
            self.fingerprint = fingerprint
        return reply

    def _fingerprint(self, reply: Mapping[str, Any]) -> Fingerprint:
        facts, runtime = dict(reply["identity"]), reply["runtime"]
        environment = {**reply["environment"], "interpreter": facts.pop("interpreter")}
        if "card_problem" in runtime:  # the card works, but what it does meanwhile cannot be read
            environment["card_problem"] = str(runtime["card_problem"])[:500]
        if not isinstance(environment.get("frequency_hz"), (int, float, type(None))):
            raise ValueError("frequency_hz is no number")
        return Fingerprint(
            **facts,
            runtime=runtime["runtime"],
            runtime_version=runtime["version"],
            runtime_build=runtime.get("build", ""),
            providers=runtime["providers"],
            accelerator=runtime.get("accelerator", ""),
            session={key: runtime[key] for key in CONDITIONS if key in runtime},
            provider=self.target.provider,
            threads=self.target.threads,
            cpus=self.target.policy.cpus,
            environment=environment,
        )


def _refuse_emulator(target: Target, found: Fingerprint) -> None:
    """Raise `BadProfile` if the target passes for hardware and is none: its times would be taken for real ones."""
    noticed = found.environment.get("emulator")
    if noticed and target.provenance == "hardware":
        raise BadProfile(
            f'target {target.name!r} says provenance = "hardware", but it is emulated: {noticed}; set '
            'provenance = "emulated" in its profile'
        )


def _start_agent(
    target: Target, transport: Transport, program: bytes, work: Path, reachable: Callable[[], bool] | None = None
) -> AgentClient:
    """An agent that was not greeted. Raises `TargetUnavailable`."""
    try:
        channel: Channel = transport.start(target, program, work)
    except OSError as error:
        raise TargetUnavailable(f"target {target.name!r}: cannot start its agent in {work}: {error}") from error
    limits = Limits(target.timeout, target.memory_limit)
    return AgentClient(channel, limits, f"target {target.name!r}", reachable=reachable)


def _make_keeper(target: Target, transport: Transport, work: Path) -> Keeper:
    small = target.model_copy(update={"memory_limit": min(target.memory_limit, _KEEPER_MEMORY)})
    program = build_agent("")  # without a runtime: a device whose runtime is broken can still be released
    wait = _number(target, "lease_wait", 900.0)
    return Keeper(lambda: _start_agent(small, transport, program, work), f"target {target.name!r}", wait=wait)


def _number(target: Target, option: str, default: float) -> float:
    """A numeric option of the target. Raises `BadProfile`."""
    value = target.options.get(option, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadProfile(f"target {target.name!r}: option {option!r} must be a number, not {value!r}")
    return float(value)


def _differences(before: Fingerprint, now: Fingerprint) -> str:
    """The facts of two fingerprints that differ, in words."""
    left, right = (facts.model_dump(exclude={"environment", "boot_id", "providers"}) for facts in (before, now))
    return ", ".join(f"{name} was {left[name]!r} and is {right[name]!r}" for name in left if left[name] != right[name])


class _Slot:
    """A place for one agent, refilled when the agent has failed. Hold `lock` while using it."""

    def __init__(self, starter: _Starter) -> None:
        self.lock = threading.Lock()
        self._starter = starter
        self._agent: AgentClient | None = None

    def agent(self, boot: str | None = None, token: int | None = None) -> AgentClient:
        """The agent, a new one if need be; used under the exclusive claim with this token, if under any.

        One that saw another `boot` of the device than the keeper sees now talks through a connection that is dead.
        """
        agent = self._agent
        if agent is not None and boot is not None and agent.moment is not None and agent.moment.boot != boot:
            agent.close()
        if agent is None or not agent.look():
            agent = self._agent = self._starter.start()
        if boot is not None and agent.moment is not None and agent.moment.boot != boot:
            agent.close()
            raise TargetUnavailable(
                f"target {self._starter.target.name!r}: two connections to it reach two different machines; give the "
                "address of one of them"
            )
        agent.token = token
        return agent

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None


class _MeasuringAgents:
    """`hwprofiles.measure.Agents` for one slot."""

    def __init__(self, slot: _Slot, starter: _Starter, keeper: Keeper, token: int) -> None:
        self._slot = slot
        self._starter = starter
        self._keeper = keeper
        self._token = token

    def resident(self) -> AgentClient:
        return self._slot.agent(self._keeper.boot, self._token)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[AgentClient]:
        agent = self._starter.start()
        agent.token = self._token
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


def _infer_some(
    idle: queue.SimpleQueue[_Slot], boot: str | None, model: Model, feeds: list[Feed], pace: _Pace
) -> list[Outputs]:
    slot = idle.get()
    try:
        with slot.lock:
            agent = slot.agent(boot)
            agent.open(_HANDLE, model.path, model.digest, shapes=shapes_of(feeds))
            agent.check_feeds(_HANDLE, feeds, stage="infer")
            start = time.perf_counter()
            _, arrays = agent.request("infer", stage="infer", feeds=feeds, handle=_HANDLE)
            seconds = time.perf_counter() - start
            outputs: list[Outputs] = [{} for _ in feeds]
            with agent.reading("infer"):
                names = [port["name"] for port in agent.sessions[_HANDLE].outputs]
                for number, tensors in enumerate(outputs):
                    tensors.update((name, arrays[f"{number}/{name}"]) for name in names)
    finally:
        idle.put(slot)
    sizes = sum(array.nbytes for tensors in (*feeds, *outputs) for array in tensors.values())
    pace.learn(seconds, sizes, len(feeds))
    return outputs
