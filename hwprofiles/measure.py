"""The protocol of a measurement: wait for quiet, time pairs in several openings until it is known well, then memory.

Candidate and baseline are timed in randomised interleaved pairs of blocks, because sequential timing is off
by several per cent as soon as the machine drifts, and pairs are not. Both are opened afresh every few pairs, because
pairs within one opening agree better with each other than with the next opening. The agent collects; everything is
decided here and in `hwprofiles.openings`.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hwprofiles.agent.client import AgentClient, Feed
from hwprofiles.agent.readings import unread
from hwprofiles.collect import (
    Agents,
    Collected,
    Collector,
    Fact,
    Model,
    Subject,
    build_several,
    described,
    on_accelerator,
)
from hwprofiles.errors import DeviceFailure
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.footprint import measure_energy, measure_memory
from hwprofiles.measurement import (
    Accelerator,
    Conditions,
    Energy,
    Estimate,
    Latency,
    Measurement,
    Memory,
    Quality,
    Ratio,
    ShapeResult,
)
from hwprofiles.openings import Opening, Tally, block_medians, median_of, pair_logs, ratio_of
from hwprofiles.policy import apply_policy, check_afterwards
from hwprofiles.quiet import Patience
from hwprofiles.scenario import Scenario
from hwprofiles.statistics import Interval, exponential, tail_percentile, variation
from hwprofiles.target import Policy, Target

__all__ = ["Agents", "Model", "measure"]

_NOISY = 0.025  # coefficient of variation of block medians; trtexec warns at the same value


class _Pinned:
    """Processes that come later run on the policy's cores, as the one does to which the policy was applied."""

    def __init__(self, agents: Agents, target: Target) -> None:
        self._agents = agents
        self._cores = target.model_copy(update={"policy": Policy(cpus=target.policy.cpus)})

    def resident(self) -> AgentClient:
        return self._agents.resident()

    @contextlib.contextmanager
    def fresh(self) -> Iterator[AgentClient]:
        with self._agents.fresh() as agent:
            apply_policy(agent, self._cores)
            yield agent


@dataclass
class _Taken:
    """What a measurement has found so far; `environment` and `quality` explain it."""

    shapes: list[ShapeResult] = field(default_factory=list)
    memory: Memory | None = None
    energy: Energy | None = None
    conditions: Conditions | None = None
    accelerator: Accelerator | None = None
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
    patience: Patience,
) -> Measurement:
    """Measure `model` on the leased device. A failure is in the record, never raised. `patience` is the device's own.

    Raises `ValueError` without inputs, for a shape of the scenario that no input has, and for a batch that they do not
    have; `TargetUnavailable` if no process can be started any more, `TargetLost` if the device is gone.
    """
    groups, unused = group_by_shape(inputs, scenario)
    batches = {label: batch_of(feeds, scenario) for label, feeds in groups.items()}
    started, clock = datetime.now(UTC), time.monotonic()
    taken, failure = _Taken(), None
    if unused:
        taken.environment["inputs_unused"] = unused
    models = {"a": model} if baseline is None else {"a": model, "b": baseline}
    subject = Subject(models, {label: feeds[: scenario.block_iterations] for label, feeds in groups.items()})
    try:
        _measure(agents, target, fingerprint, subject, batches, scenario, patience, taken)
    except DeviceFailure as error:
        failure = error.failure
        taken = _Taken(environment=taken.environment)
    first = taken.shapes[0] if taken.shapes else None
    return Measurement(
        target=target.name,
        model=model.digest,
        baseline=baseline.digest if baseline else None,
        scenario=scenario,
        fingerprint=fingerprint,
        provenance=target.provenance,
        label=target.label,
        latency=first.latency if first else None,
        baseline_latency=first.baseline_latency if first else None,
        ratio=first.ratio if first else None,
        by_shape=tuple(taken.shapes) if scenario.shapes else (),
        memory=taken.memory,
        energy=taken.energy,
        conditions=taken.conditions,
        accelerator=taken.accelerator,
        quality=tuple(sorted(taken.quality)) or ("ok",),
        failure=failure,
        started_at=started.isoformat(timespec="milliseconds"),
        seconds=time.monotonic() - clock,
        environment=taken.environment,
    )


def group_by_shape(inputs: Sequence[Feed], scenario: Scenario) -> tuple[dict[str, list[Feed]], int]:
    """The inputs of each of the scenario's shapes by label, "" if it names none, and how many belong to no shape.

    An input belongs to a shape if it has all dimensions that the shape names. Raises `ValueError`.
    """
    if not inputs:
        raise ValueError("measuring needs at least one input")
    if not scenario.shapes:
        return {"": list(inputs)}, 0
    groups: dict[str, list[Feed]] = {}
    used: set[int] = set()
    for label, wanted in scenario.shapes.items():
        fitting = [
            index
            for index, feed in enumerate(inputs)
            if all(name in feed and tuple(feed[name].shape) == tuple(dims) for name, dims in wanted.items())
        ]
        if not fitting:
            told = ", ".join(f"{name} {list(dims)}" for name, dims in wanted.items())
            raise ValueError(f"shape {label!r} of the scenario ({told}) is that of no input; give one that has it")
        groups[label] = [inputs[index] for index in fitting]
        used.update(fitting)
    return groups, len(inputs) - len(used)


def timed_inputs(inputs: Sequence[Feed], scenario: Scenario) -> list[Feed]:
    """Those that a measurement times, shape by shape. Raises `ValueError`."""
    groups, _ = group_by_shape(inputs, scenario)
    return [feed for feeds in groups.values() for feed in feeds[: scenario.block_iterations]]


def batch_of(feeds: Sequence[Feed], scenario: Scenario) -> int:
    """Items in one inference: the scenario's batch if it was given, else the first dimension that all inputs share.

    Raises `ValueError` if no input has the batch that was given.
    """
    firsts = {value.shape[0] if value.ndim else 0 for feed in feeds for value in feed.values()}
    if "batch" in scenario.model_fields_set and scenario.batch != 1:
        if scenario.batch not in firsts:
            raise ValueError(f"the scenario's batch is {scenario.batch}; the inputs' first dimensions are {firsts}")
        return scenario.batch
    if "batch" in scenario.model_fields_set or len(firsts) != 1:
        return 1
    return max(1, firsts.pop())


def _measure(
    agents: Agents,
    target: Target,
    fingerprint: Fingerprint,
    subject: Subject,
    batches: Mapping[str, int],
    scenario: Scenario,
    patience: Patience,
    taken: _Taken,
) -> None:
    if target.policy.cpus is not None:
        agents = _Pinned(agents, target)
    agent = agents.resident()
    runtime = described(agent)
    ready = apply_policy(agent, target)
    taken.environment.update(ready.facts)
    taken.environment["waited_seconds"] = patience.wait(agent, target, scenario)
    if scenario.phase == "final":
        build_several(agent, runtime, subject, target.timeout)
    if runtime.get("card_problem"):
        taken.environment["card_problem"] = str(runtime["card_problem"])
    collector = Collector(agents, target, subject, scenario)
    tally = Tally(scenario, tuple(subject.feeds))
    collector.run(tally)
    after = check_afterwards(agents.resident(), target)
    taken.environment.update(after.facts)
    if ready.throttled or after.throttled:
        taken.quality.add("throttled")
    kept, flags = tally.settle()
    taken.environment.update(collector.collected.environment)
    _judge(tally, kept, flags, taken)
    cold = None
    first = next(iter(subject.feeds))
    on_card: list[tuple[int, str]] = []
    if scenario.memory_runs:
        taken.memory, cold = measure_memory(
            agents,
            subject.models["a"],
            [feed for feeds in subject.feeds.values() for feed in feeds],
            scenario.memory_runs,
            taken.environment,
            on_card,
        )
    if scenario.energy_seconds:
        count = len(kept[0].shapes[first]["a"].samples) // len(kept[0].shapes[first]["a"].medians)
        taken.energy = measure_energy(
            agents.resident(),
            subject.models["a"],
            subject.feeds[first],
            count,
            scenario.energy_seconds,
            taken.environment,
        )
    for label, feeds in subject.feeds.items():
        shapes = {name: tuple(value.shape) for name, value in feeds[0].items()}
        taken.shapes.append(_result(label, shapes, kept, collector.collected, batches[label], cold))
    collected = collector.collected
    with agents.resident().reading("latency"):
        taken.accelerator = on_accelerator(runtime, collected, kept, first, max(on_card, default=None))
    if taken.accelerator is not None and taken.accelerator.throttled:
        taken.environment["throttled"] = "; ".join(taken.accelerator.throttled)
        taken.quality.add("throttled")
    told = {**runtime, **collected.sessions.get("a", {}).get("conditions", {})}
    taken.conditions = _conditions(fingerprint, told, batches[first], kept)
    taken.environment["unread"] = _unread(agents.resident(), fingerprint, taken)


def _judge(tally: Tally, kept: list[Opening], flags: set[Any], taken: _Taken) -> None:
    """Flags and what explains them."""
    taken.quality |= flags
    sides = [side for opening in kept for shape in opening.shapes.values() for side in shape.values()]
    labels = {label for opening in kept for label in opening.shapes}
    spread = max(
        variation(block_medians(kept, label, side)[0])
        for label in labels
        for side in next(o.shapes[label] for o in kept if label in o.shapes)
    )
    if spread > _NOISY:
        taken.quality.add("noisy")
    if taken.environment.get("throttled"):
        taken.quality.add("throttled")
    disturbed = sorted({what for opening in tally.openings for what in opening.disturbed})
    taken.environment.update(
        disturbed="; ".join(disturbed) or None,
        wall_per_cpu=max(side.off_cpu for side in sides),
        block_variation=spread,
        openings=len(kept),
        openings_left_out=len(tally.openings) - len(kept),
    )
    clocks = [opening.clock_hz for opening in tally.openings if opening.clock_hz is not None]
    if clocks:
        taken.environment.update(clock_hz=statistics.median(clocks), clock_hz_range=max(clocks) - min(clocks))


def _result(
    label: str,
    shapes: dict[str, tuple[int, ...]],
    kept: list[Opening],
    collected: Collected,
    batch: int,
    cold: float | None,
) -> ShapeResult:
    having = [opening for opening in kept if label in opening.shapes]
    paired = "b" in having[0].shapes[label]
    return ShapeResult(
        label=label,
        shapes=shapes,
        latency=_latency(label, "a", having, collected, batch, cold),
        baseline_latency=_latency(label, "b", having, collected, batch, None) if paired else None,
        ratio=_ratio(label, having) if paired else None,
    )


def _latency(
    label: str, side: str, openings: list[Opening], collected: Collected, batch: int, cold: float | None
) -> Latency:
    samples = [sample for opening in openings for sample in opening.shapes[label][side].samples]
    cpu = [seconds for opening in openings for seconds in opening.shapes[label][side].cpu]
    medians, numbers = block_medians(openings, label, side)
    return Latency(
        median=_estimate(exponential(median_of(openings, label, side))),
        p90=tail_percentile(samples, 0.9),
        p99=tail_percentile(samples, 0.99),
        cpu_median=statistics.median(cpu),
        cv=variation(samples),
        iterations=len(samples),
        blocks=tuple(medians),
        load_seconds=statistics.median(collected.loads[side]),
        first_seconds=statistics.median(collected.firsts[side]),
        cold_seconds=cold,
        throughput=batch * len(samples) / sum(samples),
        openings=tuple(numbers),
    )


def _ratio(label: str, openings: list[Opening]) -> Ratio:
    pairs, numbers = pair_logs(openings, label)
    return Ratio(
        estimate=_estimate(exponential(ratio_of(openings, label))),
        cpu=math.exp(ratio_of(openings, label, cpu=True)[0]),
        pairs=len(pairs),
        log_ratios=tuple(pairs),
        openings=tuple(numbers),
    )


def _estimate(interval: Interval) -> Estimate:
    value, low, high = interval
    return Estimate(value=value, low=low, high=high)


def _conditions(fingerprint: Fingerprint, runtime: Mapping[str, Any], batch: int, kept: list[Opening]) -> Conditions:
    on_card = "timer" in runtime
    governor = None if on_card else fingerprint.environment.get("governor")
    clocks = [opening.clock_hz for opening in kept if opening.clock_hz is not None]
    told = None if on_card else fingerprint.environment.get("frequency_hz")
    hertz = statistics.median(clocks) if clocks else told
    words = [str(governor)] if governor else []
    words += [f"{float(hertz) / 1e9:.2f} GHz"] if hertz else []
    return Conditions(
        runtime=fingerprint.runtime,
        runtime_version=fingerprint.runtime_version,
        provider=fingerprint.provider,
        threads=fingerprint.threads,
        batch=batch,
        arena=str(runtime.get("arena") or "unknown"),
        cuda_graph=runtime.get("cuda_graph"),
        transfers=runtime.get("transfers"),
        clocks=", ".join(words) or "unknown",
    )


def _unread(agent: AgentClient, fingerprint: Fingerprint, taken: _Taken) -> str | None:
    """What could not be read here, as words; None if everything could."""
    reply, _ = agent.request("pressure", stage="latency", seconds=0.0)
    with agent.reading("latency"):
        facts = {**fingerprint.environment, **reply["after"]}
    facts["cgroup_peak"] = taken.environment.get("cgroup_peak")
    facts["energy"] = None if taken.energy is None else taken.energy.source
    return ", ".join(unread(facts)) or None
