"""The protocol of a measurement: wait for quiet, warm up, time in pairs until it is known well enough, then memory.

Candidate and baseline are timed in randomised interleaved pairs of blocks, because sequential timing is off
by several per cent as soon as the machine drifts, and pairs are not. The agent collects; everything is
decided here.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hwprofiles.agent.client import AgentClient, Feed, Session, duration
from hwprofiles.agent.readings import Blocks, add_blocks, disturbances, log_ratios
from hwprofiles.errors import DeviceFailure, Failure
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Estimate, Latency, Measurement, Memory, Quality, Ratio
from hwprofiles.scenario import Scenario
from hwprofiles.statistics import looks, median_interval, ratio_interval, tail_percentile, variation
from hwprofiles.target import Target

Fact = str | float | int | None

_NOISY = 0.025  # coefficient of variation of block medians; trtexec warns at the same value
_OFF_CPU = 1.1  # wall seconds per CPU second of the measuring thread
_GLANCE = 0.1  # seconds over which pressure is read before a measurement
_QUIET_WAIT = {
    "search": 3.0,
    "final": 20.0,
}  # seconds to wait for quiet, unless the target's options say otherwise
_MEMORY_RUNS = 20  # inferences after which the allocator's peak has settled
_CANDIDATE, _BASELINE = "candidate", "baseline"


class Agents(Protocol):
    """Where a measurement gets its processes from."""

    def resident(self) -> AgentClient:
        """The process that keeps the baseline open between measurements; a new one if the last failed."""

    def fresh(self) -> contextlib.AbstractContextManager[AgentClient]:
        """A process that has done nothing yet; ended afterwards."""


@dataclass(frozen=True)
class Model:
    """A model file and its sha256."""

    path: Path
    digest: str


@dataclass
class _Taken:
    """What a measurement has found so far; `environment` and `quality` explain it."""

    latency: Latency | None = None
    baseline_latency: Latency | None = None
    ratio: Ratio | None = None
    memory: Memory | None = None
    quality: set[Quality] = field(default_factory=set)
    environment: dict[str, Fact] = field(default_factory=dict)


def measure(
    agents: Agents,
    target: Target,
    fingerprint: Fingerprint,
    model: Model,
    inputs: Sequence[Feed],
    *,
    baseline: Model | None,
    scenario: Scenario,
) -> Measurement:
    """Measure `model` on the leased device. A failure is in the record, never raised.

    Raises `ValueError` without inputs, `TargetUnavailable` if no process can be started any more.
    """
    if not inputs:
        raise ValueError("measuring needs at least one input")
    started, clock = datetime.now(UTC), time.monotonic()
    taken, failure = _Taken(), None
    try:
        agent = agents.resident()
        _time(agent, target, model, baseline, list(inputs[: scenario.block_iterations]), scenario, taken)
        if scenario.memory_runs:
            taken.memory = _measure_memory(agents, model, inputs[0], scenario.memory_runs, taken)
    except DeviceFailure as error:
        failure = error.failure
        taken = _Taken(environment=taken.environment)
    return Measurement(
        target=target.name,
        model=model.digest,
        baseline=baseline.digest if baseline else None,
        scenario=scenario,
        fingerprint=fingerprint,
        provenance=target.provenance,
        latency=taken.latency,
        baseline_latency=taken.baseline_latency,
        ratio=taken.ratio,
        memory=taken.memory,
        quality=tuple(sorted(taken.quality)) or ("ok",),
        failure=failure,
        started_at=started.isoformat(timespec="milliseconds"),
        seconds=time.monotonic() - clock,
        environment=taken.environment,
    )


def _time(
    agent: AgentClient,
    target: Target,
    model: Model,
    baseline: Model | None,
    feeds: list[Feed],
    scenario: Scenario,
    taken: _Taken,
) -> None:
    """Latency of both sides and their ratio, into `taken`."""
    taken.environment["waited_seconds"] = _wait_for_quiet(agent, target, scenario)
    sides = {"a": _CANDIDATE}
    counts: dict[str, int] = {}
    typical: dict[str, float] = {}
    if baseline is not None:
        sides["b"] = _BASELINE
        with _about("baseline"):
            session = agent.open(_BASELINE, baseline.path, baseline.digest)
            counts["b"], typical["b"] = _warm_up(agent, _BASELINE, session, feeds, scenario, target, taken)
    # Opened afresh even if it is there: its load and first inference are part of the answer.
    session = agent.open(_CANDIDATE, model.path, model.digest, fresh=True)
    counts["a"], typical["a"] = _warm_up(agent, _CANDIDATE, session, feeds, scenario, target, taken)

    before = _pressure(agent)
    blocks = _collect(agent, sides, counts, typical, feeds, scenario, target)
    _judge_quality(blocks, before, _pressure(agent), scenario, taken)

    taken.latency = _latency(blocks["a"], agent.sessions[_CANDIDATE], scenario.seed)
    if baseline is not None:
        taken.baseline_latency = _latency(blocks["b"], agent.sessions[_BASELINE], scenario.seed)
        taken.ratio = _ratio(blocks["a"], blocks["b"], scenario.seed)


def _wait_for_quiet(agent: AgentClient, target: Target, scenario: Scenario) -> float:
    """Seconds waited until nobody else used the machine, or the patience was used up."""
    option = "quiet_wait" if scenario.phase == "search" else "quiet_wait_final"
    patience = float(target.options.get(option, _QUIET_WAIT[scenario.phase]))
    began = time.monotonic()
    glance = _GLANCE
    while patience > 0:
        reply, _ = agent.request("pressure", stage="latency", seconds=glance)
        with agent.reading("latency"):
            busy = disturbances(reply["before"], reply["after"])
        if not busy or time.monotonic() - began >= patience:
            break
        glance = min(0.5, patience)
    return time.monotonic() - began


def _pressure(agent: AgentClient) -> dict[str, Any]:
    reply, _ = agent.request("pressure", stage="latency", seconds=0.0)
    with agent.reading("latency"):
        return dict(reply["after"])


def _warm_up(
    agent: AgentClient,
    handle: str,
    session: Session,
    feeds: list[Feed],
    scenario: Scenario,
    target: Target,
    taken: _Taken,
) -> tuple[int, float]:
    """(inferences per block, typical seconds of one).

    A session that is warm already only gets its caches back.
    """
    agent.check_feeds(handle, feeds, stage="latency")
    cap = min(scenario.warmup_cap, target.timeout / 2)
    reply, _ = agent.request(
        "warm",
        stage="latency",
        feeds=feeds,
        handle=handle,
        seconds=scenario.block_seconds if session.warm else scenario.warmup_seconds,
        iterations=scenario.block_iterations if session.warm else scenario.warmup_iterations,
        cap=cap,
        block_seconds=scenario.block_seconds,
        block_iterations=scenario.block_iterations,
    )
    with agent.reading("latency"):
        if session.first_seconds is None:
            session.first_seconds = duration(reply, "first")
        session.warm = True
        taken.environment[f"{handle}_warm"] = "stable" if reply["stable"] else f"not stable after {cap:g} s"
        count = int(reply["count"])
        if count < 1:
            raise ValueError(f"{count} inferences per block")
        return count, duration(reply, "typical")


def _collect(
    agent: AgentClient,
    sides: dict[str, str],
    counts: dict[str, int],
    typical: dict[str, float],
    feeds: list[Feed],
    scenario: Scenario,
    target: Target,
) -> dict[str, Blocks]:
    """Time pairs until the interval is narrow enough at a scheduled look, or pairs or seconds are used up."""
    blocks = {side: Blocks() for side in sides}
    one_pair = sum(counts[side] * typical[side] for side in sides)
    began = time.monotonic()
    pairs = 0
    for look in looks(scenario.min_pairs, scenario.max_pairs):
        while pairs < look:
            left = scenario.max_seconds - (time.monotonic() - began)
            if left <= 0 and pairs:  # one pair there must be, however little time there is
                return blocks
            reply, arrays = agent.request(
                "time",
                stage="latency",
                # A slow model has proven in its warm-up that it is slow and does not hang.
                timeout=max(target.timeout, 4 * one_pair),
                feeds=feeds,
                sides=sides,
                counts=counts,
                pairs=look - pairs,
                seed=scenario.seed * 1_000_003 + pairs,
                budget=max(0.0, min(left, target.timeout / 2)),
            )
            with agent.reading("latency"):
                pairs += add_blocks(blocks, reply["blocks"], arrays["wall"])
        if _half_width(blocks, scenario.seed) <= scenario.precision:
            break
    return blocks


def _half_width(blocks: dict[str, Blocks], seed: int) -> float:
    """Half of the relative width of the 95 % interval of the ratio, or of the median alone."""
    if "b" in blocks:
        _, low, high = median_interval(log_ratios(blocks["a"].medians, blocks["b"].medians), seed=seed)
        return (high - low) / 2
    value, low, high = median_interval(blocks["a"].medians, seed=seed)
    return (high - low) / 2 / value


def _judge_quality(
    blocks: dict[str, Blocks],
    before: dict[str, Any],
    after: dict[str, Any],
    scenario: Scenario,
    taken: _Taken,
) -> None:
    off_cpu = max(side.wall_seconds / max(side.thread_seconds, 1e-9) for side in blocks.values())
    spread = max(variation(side.medians) for side in blocks.values())
    disturbed = disturbances(before, after)
    if spread > _NOISY:
        taken.quality.add("noisy")
    if off_cpu > _OFF_CPU:
        disturbed.append("the measured thread was off the CPU")
    if disturbed:
        taken.quality.add("contended")
    if (after["throttle_count"] or 0) > (before["throttle_count"] or 0):
        taken.quality.add("throttled")
    if len(blocks["a"].medians) < scenario.min_pairs:
        taken.quality.add("short")
    taken.environment.update(
        disturbed="; ".join(disturbed) or None,
        wall_per_cpu=off_cpu,
        block_variation=spread,
        psi_avg10=after["psi_avg10"],
        load=after["load"],
    )


def _latency(blocks: Blocks, session: Session, seed: int) -> Latency:
    value, low, high = median_interval(blocks.medians, seed=seed)
    return Latency(
        median=Estimate(value=value, low=low, high=high),
        p90=tail_percentile(blocks.samples, 0.9),
        p99=tail_percentile(blocks.samples, 0.99),
        cpu_median=float(np.median(blocks.cpu)),
        cv=variation(blocks.samples),
        iterations=len(blocks.samples),
        blocks=tuple(blocks.medians),
        load_seconds=session.seconds,
        first_seconds=session.first_seconds or 0.0,
    )


def _ratio(candidate: Blocks, baseline: Blocks, seed: int) -> Ratio:
    pairs = log_ratios(candidate.medians, baseline.medians)
    value, low, high = ratio_interval(pairs, seed=seed)
    return Ratio(
        estimate=Estimate(value=value, low=low, high=high),
        cpu=math.exp(float(np.median(log_ratios(candidate.cpu, baseline.cpu)))),
        pairs=len(pairs),
        log_ratios=tuple(pairs),
    )


def _measure_memory(agents: Agents, model: Model, feed: Feed, runs: int, taken: _Taken) -> Memory:
    """Peak memory of fresh processes; the run with the largest peak counts."""
    found = []
    for _ in range(runs):
        with agents.fresh() as agent:
            agent.put(model.path, model.digest)
            reply, _ = agent.request(
                "memory", stage="memory", feeds=[feed], digest=model.digest, iterations=_MEMORY_RUNS
            )
            with agent.reading("memory"):
                facts = {key: int(reply[key]) for key in ("run_peak", "load_peak", "import_only")}
                taken.environment["memory_reset"] = "yes" if reply["reset"] else "no: load is part of the run peak"
        found.append(facts)
    largest = max(found, key=lambda facts: facts["run_peak"])
    return Memory(**largest, peak=max(0, largest["run_peak"] - largest["import_only"]), runs=runs)


@contextlib.contextmanager
def _about(what: str) -> Any:
    """Say in the failure that it was not the candidate that failed."""
    try:
        yield
    except DeviceFailure as error:
        told = error.failure
        message = f"{what}: {told.message}"
        raise DeviceFailure(Failure(**{**told.model_dump(), "message": message})) from error
