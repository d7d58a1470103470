"""What a model costs besides time: memory, cold start and energy."""

from __future__ import annotations

import statistics
from typing import Any

from hwprofiles.agent.client import AgentClient, Feed, duration, shapes_of
from hwprofiles.collect import HANDLES, Agents, Fact, Model
from hwprofiles.measurement import Energy, Estimate, Memory
from hwprofiles.statistics import interval_over_openings

_MEMORY_RUNS = 20  # inferences after which the allocator's peak has settled
_ENERGY_SLICES = 6  # of rest and work in turn; their spread gives the interval


def measure_memory(
    agents: Agents,
    model: Model,
    feeds: list[Feed],
    runs: int,
    environment: dict[str, Fact],
    on_card: list[tuple[int, str]] | None = None,
) -> tuple[Memory, float | None]:
    """Peak memory of fresh processes, the run with the largest peak counts; and seconds of a cold start, the median.
    The first of `feeds` is what runs; the model is opened as it was timed, for the shapes of all of them.

    A cold start is from the start of the program on the device to the first answer: interpreter, runtime, model,
    inference. None where the device does not tell when a process was started.

    `on_card`, if given, takes what each run added to a card's used memory, in bytes, and who told it.
    """
    found, cold = [], []
    for _ in range(runs):
        with agents.fresh() as agent:
            agent.put(model.path, model.digest)
            reply, _ = agent.request(
                "memory",
                stage="memory",
                feeds=feeds[:1],
                digest=model.digest,
                iterations=_MEMORY_RUNS,
                shapes=shapes_of(feeds),
            )
            with agent.reading("memory"):
                found.append({key: int(reply[key]) for key in ("run_peak", "load_peak", "import_only")})
                environment["memory_reset"] = "yes" if reply["reset"] else "no: load is part of the run peak"
                if reply.get("cgroup_peak") is not None:
                    environment["cgroup_peak"] = int(reply["cgroup_peak"])
                if reply.get("cold") is not None:
                    cold.append(duration(reply, "cold"))
                grown = reply.get("accelerator") or {}
                if on_card is not None and grown.get("process") is not None:
                    on_card.append((int(grown["process"]), str(grown["process_source"])))
    largest = max(found, key=lambda facts: facts["run_peak"])
    memory = Memory(**largest, peak=max(0, largest["run_peak"] - largest["import_only"]), runs=runs)
    return memory, statistics.median(cold) if cold else None


def measure_energy(
    agent: AgentClient, model: Model, feeds: list[Feed], count: int, seconds: float, environment: dict[str, Fact]
) -> Energy | None:
    """Joules of one inference above rest, from `seconds` of work and as many of rest. None without a counter, and where
    `seconds` are too short for it: `environment` says so as `energy`.

    `count` inferences are between two looks at the clock.
    """
    handle = HANDLES["a"]
    agent.open(handle, model.path, model.digest)
    reply, _ = agent.request(
        "energy",
        stage="energy",
        timeout=10 * seconds + 120,
        feeds=feeds,
        handle=handle,
        count=count,
        seconds=seconds,
        slices=_ENERGY_SLICES,
    )
    with agent.reading("energy"):
        if not reply["source"]:
            if reply.get("why"):
                environment["energy"] = str(reply["why"])
            return None
        return summarise(str(reply["source"]), reply["slices"])


def summarise(source: str, slices: list[dict[str, Any]]) -> Energy:
    """Energy from slices of rest and work. Raises ValueError if a slice has no inference."""
    watts, joules = [], []
    for piece in slices:
        rest, work = piece["rest"], piece["work"]
        power = duration(rest, "joules") / max(duration(rest, "seconds"), 1e-9)
        if int(work["count"]) < 1:
            raise ValueError("a slice without an inference")
        watts.append(power)
        joules.append((duration(work, "joules") - power * duration(work, "seconds")) / int(work["count"]))
    value, low, high = interval_over_openings(joules, range(len(joules)))
    return Energy(joules=Estimate(value=value, low=low, high=high), idle_watts=statistics.median(watts), source=source)
