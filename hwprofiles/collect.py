"""Collects openings: opens both models afresh, warms them up, times pairs of blocks, watches the machine meanwhile."""

from __future__ import annotations

import contextlib
import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hwprofiles.agent import nvml
from hwprofiles.agent.client import AgentClient, Feed, duration, shapes_of
from hwprofiles.agent.readings import Blocks, add_blocks, card_reading, disturbances
from hwprofiles.errors import DeviceFailure, Failure
from hwprofiles.measurement import Accelerator, AcceleratorMemory, Build
from hwprofiles.openings import Opening, Sides, Tally
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target

Fact = str | float | int | None

_OFF_CPU = 1.1  # wall seconds per CPU second of the measuring thread
_CPU = "CPUExecutionProvider"
_SHORT = 2.5  # blocks' worth of seconds that warming up a model opened once more may take at most
_PADDING = 6, 21  # powers of two between which the bytes lie that move a model in memory
_COUNTERS = ("clock", "load", "psi_avg10", "psi_total", "steal_total", "throttle_count")
HANDLES = {"a": "candidate", "b": "baseline"}


class Agents(Protocol):
    """Where a measurement gets its processes from."""

    def resident(self) -> AgentClient:
        """The process that stays between measurements; a new one if the last failed."""

    def fresh(self) -> contextlib.AbstractContextManager[AgentClient]:
        """A process that has done nothing yet; ended afterwards."""


@dataclass(frozen=True)
class Model:
    """A model file and its sha256."""

    path: Path
    digest: str


@dataclass
class Subject:
    """What is measured: models by side ("a" candidate, "b" baseline), inputs by shape."""

    models: dict[str, Model]
    feeds: dict[str, list[Feed]]


@dataclass
class Collected:
    """What openings leave besides blocks: seconds of loading and of the first inference by side, and notes."""

    loads: dict[str, list[float]] = field(default_factory=lambda: {"a": [], "b": []})
    firsts: dict[str, list[float]] = field(default_factory=lambda: {"a": [], "b": []})
    environment: dict[str, Fact] = field(default_factory=dict)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)  # side -> what it tells of itself on a card
    card: list[dict[str, Any]] = field(default_factory=list)  # readings before and after each opening's blocks
    others: list[int] = field(default_factory=list)  # processes of others on the card, where it was told
    throttled: set[str] = field(default_factory=set)  # why the card was slower than it can be


class Collector:
    """Collects the openings of one measurement.

    Raises `DeviceFailure` when a model fails, `TargetLost` and `TargetUnavailable` when the device does.
    """

    def __init__(self, agents: Agents, target: Target, subject: Subject, scenario: Scenario) -> None:
        self.collected = Collected()
        self._agents = agents
        self._target = target
        self._subject = subject
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._orders: list[list[str]] = []
        self._shapes = shapes_of([feed for feeds in subject.feeds.values() for feed in feeds])
        self._blocks: dict[tuple[str, str], tuple[int, float]] = {}  # (shape, side): inferences, seconds of one

    def run(self, tally: Tally) -> None:
        """Openings into `tally` until it has enough or the seconds are used up; at least one."""
        until: float | None = None
        while True:
            labels, pairs = tally.wanted()
            if not labels or (until is not None and time.monotonic() >= until):
                return
            with self._agent() as agent:
                order = self._order()
                self._open(agent, order)
                if until is None:  # what the first warm-up takes is not counted: a slow model would get no time at all
                    self._prepare(agent, list(self._subject.feeds))
                    until = time.monotonic() + self._scenario.max_seconds * len(tally.labels)
                tally.add(self._time(agent, len(tally.openings), order, labels, pairs, until))

    @contextlib.contextmanager
    def _agent(self) -> Iterator[AgentClient]:
        if self._scenario.phase == "final":  # processes differ too: by where libraries and pages lie
            with self._agents.fresh() as agent:
                yield agent
        else:
            yield self._agents.resident()

    def _open(self, agent: AgentClient, order: list[str]) -> None:
        """Both models afresh, none before both are closed: one that stays would always lie where it lay."""
        for handle in HANDLES.values():
            if handle in agent.sessions:
                agent.request("close", stage="load", handle=handle)
                del agent.sessions[handle]
        for side in order:
            model = self._subject.models[side]
            padding = int(2 ** self._random.uniform(*_PADDING))
            with about(side):
                session = agent.open(
                    HANDLES[side], model.path, model.digest, fresh=True, padding=padding, shapes=self._shapes
                )
            self.collected.loads[side].append(session.seconds)

    def _order(self) -> list[str]:
        """Each order comes as often as the other, but which comes first is drawn."""
        if not self._orders:
            sides = sorted(self._subject.models)
            self._orders = [sides, sides[::-1]]
            self._random.shuffle(self._orders)
        return self._orders.pop()

    def _prepare(self, agent: AgentClient, labels: list[str]) -> None:
        """The long warm-up of the first opening, which also finds out how long a block must be; and what comes out."""
        for label in labels:
            for side in sorted(self._subject.models, reverse=True):
                with about(side):
                    self._blocks[label, side] = self._warm_up(agent, label, side, thorough=True)
            self._check_outputs(agent, label)

    def _warm_up(self, agent: AgentClient, label: str, side: str, *, thorough: bool) -> tuple[int, float]:
        """(inferences per block, typical seconds of one)."""
        scenario, handle, feeds = self._scenario, HANDLES[side], self._subject.feeds[label]
        agent.check_feeds(handle, feeds, stage="latency")
        seconds, iterations = scenario.warmup_seconds, scenario.warmup_iterations
        cap = min(scenario.warmup_cap, self._target.timeout / 2)
        if not thorough:
            seconds, iterations = min(seconds, scenario.block_seconds), min(iterations, scenario.block_iterations)
            cap = min(cap, _SHORT * scenario.block_seconds)
        reply, _ = agent.request(
            "warm",
            stage="latency",
            feeds=feeds,
            handle=handle,
            seconds=seconds,
            iterations=iterations,
            cap=cap,
            block_seconds=scenario.block_seconds,
            block_iterations=scenario.block_iterations,
        )
        with agent.reading("latency"):
            session = agent.sessions[handle]
            if session.first_seconds is None:
                session.first_seconds = duration(reply, "first")
                self.collected.firsts[side].append(session.first_seconds)
            if thorough:
                stable = "stable" if reply["stable"] else f"not stable after {cap:g} s"
                self.collected.environment.setdefault(f"{handle}_warm", stable)
            if reply.get("session") is not None:
                told = self.collected.sessions[side] = dict(reply["session"])
                if told.get("notes"):
                    self.collected.environment[f"{handle}_notes"] = "; ".join(map(str, told["notes"]))[:2000]
            count, typical = int(reply["count"]), duration(reply, "typical")
            # What follows takes as long as these two say.
            most = scenario.block_seconds / max(typical, 1e-9) + scenario.block_iterations + len(feeds) + 1
            if not 1 <= count <= most or typical > self._target.timeout:
                raise ValueError(f"{count} inferences of {typical:g} s per block")
            return count, typical

    def _check_outputs(self, agent: AgentClient, label: str) -> None:
        """Numbers that are none are a failure of the candidate, unless the baseline answers so too."""
        feeds = self._subject.feeds[label]
        wrong = agent.check_outputs(HANDLES["a"], feeds, stage="latency")
        if not wrong:
            return
        if "b" in self._subject.models and not agent.check_outputs(HANDLES["b"], feeds, stage="latency"):
            message = f"target {self._target.name!r}: {wrong[0]}; those of the baseline are"
            raise DeviceFailure(Failure(kind="nonfinite", stage="latency", message=message))
        self.collected.environment["outputs"] = wrong[0]

    def _time(
        self, agent: AgentClient, number: int, order: list[str], labels: list[str], pairs: int, until: float
    ) -> Opening:
        opening = Opening(number, {})
        disturbed: dict[str, None] = {}
        for label in labels:
            if number or label != labels[-1]:  # the last shape of the first opening is warm
                for side in order:
                    with about(side):
                        self._warm_up(agent, label, side, thorough=False)
            before = pressure(agent)
            opening.shapes[label] = self._pairs(agent, label, pairs, number, until)
            after = pressure(agent)
            with agent.reading("latency"):
                disturbed |= dict.fromkeys(disturbances(before, after) + self._watch_card(before, after))
                if (after["throttle_count"] or 0) > (before["throttle_count"] or 0):
                    self.collected.environment["throttled"] = "the processor slowed itself down"
            sides = opening.shapes[label].values()
            # An accelerator works while the thread waits for it.
            if self._target.provider == _CPU and max(side.off_cpu for side in sides) > _OFF_CPU:
                disturbed["the measured thread was off the CPU"] = None
            self.collected.environment.update(psi_avg10=after["psi_avg10"], load=after["load"])
        opening.disturbed = tuple(disturbed)
        return opening

    def _watch_card(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        """Keep two readings of the card and what they say of its clocks; who else used it, in words."""
        if before["card"] is None or after["card"] is None:
            return []
        self.collected.card += [before["card"], after["card"]]
        self.collected.throttled.update(nvml.throttled(before["card"], after["card"]))
        counts = [nvml.others(told["card"], told["own"]) for told in (before, after)]
        self.collected.others += [count for count in counts if count is not None]
        return nvml.disturbances(before["card"], after["card"], before["own"])

    def _pairs(self, agent: AgentClient, label: str, pairs: int, number: int, until: float) -> Sides:
        sides = {side: HANDLES[side] for side in self._subject.models}
        counts = {side: self._blocks[label, side][0] for side in sides}
        one_pair = sum(count * self._blocks[label, side][1] for side, count in counts.items())
        blocks: Sides = {side: Blocks() for side in sides}
        done = 0
        while done < pairs:
            left = until - time.monotonic()
            if left <= 0 and done:  # one pair there must be, however little time there is
                break
            reply, arrays = agent.request(
                "time",
                stage="latency",
                # A slow model has proven in its warm-up that it is slow and does not hang.
                timeout=max(self._target.timeout, 4 * one_pair),
                feeds=self._subject.feeds[label],
                sides=sides,
                counts=counts,
                pairs=pairs - done,
                seed=self._scenario.seed * 1_000_003 + number * 1009 + done,
                budget=max(0.0, min(left, self._target.timeout / 2)),
            )
            with agent.reading("latency"):
                done += add_blocks(blocks, reply["blocks"], arrays["wall"])
        return blocks


def build_several(agent: AgentClient, runtime: Mapping[str, Any], subject: Subject, patience: float) -> None:
    """Let a runtime that builds do so several times for each model, and keep the fastest.

    Both sides get the same: a baseline that was built once against the best of three would lose by that alone.
    `patience`: seconds for one build.
    """
    count = int(runtime.get("builds") or 1)
    if count < 2:
        return
    feeds = [feed for group in subject.feeds.values() for feed in group]
    for side, model in subject.models.items():
        with about(side):
            agent.put(model.path, model.digest)
            agent.request(
                "prepare",
                stage="build",
                timeout=(count + 1) * patience,
                feeds=feeds,
                digest=model.digest,
                count=count,
            )


def on_accelerator(
    runtime: Mapping[str, Any],
    collected: Collected,
    openings: Sequence[Opening],
    label: str,
    grown: tuple[int, str] | None,
) -> Accelerator | None:
    """What was found out about the card and the candidate on it; None for a runtime that uses none.

    `grown`: bytes of the card's memory that the model took, and who told. Raises ValueError, LookupError or TypeError
    for answers that fit to nothing.
    """
    if runtime.get("timer") is None:
        return None
    blocks = [opening.shapes[label]["a"] for opening in openings if label in opening.shapes]
    every = [side for opening in openings for sides in opening.shapes.values() for side in sides.values()]
    clocks = [hertz for side in every for hertz in side.clocks]
    degrees = [value for side in every for value in side.temperatures]
    degrees += [told["temperature_c"] for told in collected.card if told["temperature_c"] is not None]
    between = {"at": 0.0, "reasons": sorted(set[str]().union(*(side.reasons for side in every)))}
    told = collected.sessions.get("a", {})
    process, source = grown if grown is not None else (None, "")
    card = runtime["card"]
    return Accelerator(
        card=card["name"],
        driver=card["driver"],
        timer=runtime["timer"],
        enqueue=_median([value for side in blocks for value in side.enqueue]),
        end_to_end=_median([value for side in blocks for value in side.end_to_end]),
        clock_hz=(min(clocks), max(clocks)) if clocks else None,
        temperature=(min(degrees), max(degrees)) if degrees else None,
        throttled=tuple(sorted(collected.throttled.union(nvml.throttled(between, between)))),
        others=max(collected.others, default=None),
        memory=AcceleratorMemory(**{**told.get("memory", {}), "process": process, "process_source": source}),
        builds=tuple(Build.model_validate(build) for build in told.get("builds", ())),
    )


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def pressure(agent: AgentClient) -> dict[str, Any]:
    """One reading of what grows while others use the machine."""
    reply, _ = agent.request("pressure", stage="latency", seconds=0.0)
    with agent.reading("latency"):
        found = counters(reply["after"])
        found["card"] = card_reading(reply["after"].get("card"))
        found["own"] = [int(process) for process in reply.get("own", ())]
        return found


@contextlib.contextmanager
def about(side: str) -> Iterator[None]:
    """Say in the failure that it was not the candidate that failed."""
    try:
        yield
    except DeviceFailure as error:
        if side != "b":
            raise
        told = error.failure
        message = f"{HANDLES[side]}: {told.message}"
        raise DeviceFailure(Failure(**{**told.model_dump(), "message": message})) from error


def described(agent: AgentClient) -> Mapping[str, Any]:
    """What the runtime says of itself and of how its sessions run."""
    reply, _ = agent.request("describe", stage="start", files={})
    with agent.reading("start"):
        runtime = dict(reply["runtime"])
        for name in ("cuda_graph", "transfers"):
            if runtime.get(name) not in (True, False, None):
                raise ValueError(f"{name} of the runtime is not yes or no")
        return runtime


def counters(told: Mapping[str, Any]) -> dict[str, Any]:
    """A reading of the machine, checked: each is a number, or None where the machine does not tell."""
    found = {name: told[name] for name in _COUNTERS}
    for name, value in found.items():
        if value is not None and (isinstance(value, bool) or not math.isfinite(value)):
            raise ValueError(f"{name} is no number")
    return found
