"""What the agent read off its clocks and counters, checked and put in order. Runs here, not on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwprofiles.agent.client import duration

_PRESSURE = 0.05  # share of the time in which some task waited for a CPU
_STEAL = 0.01  # CPUs' worth of time that the hypervisor kept


@dataclass
class Blocks:
    """Blocks of one side: single samples, block medians, CPU seconds per inference of each block.

    `clocks`: hertz after each block, where the machine tells.
    """

    samples: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    clocks: list[float] = field(default_factory=list)
    enqueue: list[float] = field(default_factory=list)  # of an accelerator, as are all below: seconds, block medians
    end_to_end: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    wall_seconds: float = 0.0
    thread_seconds: float = 0.0

    @property
    def off_cpu(self) -> float:
        """Wall seconds per CPU second of the measuring thread."""
        return self.wall_seconds / max(self.thread_seconds, 1e-9)


def disturbances(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What disturbed the machine between two readings, in words."""
    span = max(after["clock"] - before["clock"], 1e-6)
    found = []
    if before["psi_total"] is not None and (after["psi_total"] - before["psi_total"]) / span > _PRESSURE:
        found.append("tasks waited for a CPU")
    if before["steal_total"] is not None and (after["steal_total"] - before["steal_total"]) / span > _STEAL:
        found.append("the hypervisor took CPU time")
    return found


def add_blocks(blocks: dict[str, Blocks], told: list[dict[str, Any]], wall: np.ndarray[Any, Any]) -> int:
    """Append what the agent timed; the number of pairs. Raises ValueError for numbers that no clock gives."""
    if not np.isfinite(wall).all() or (wall <= 0).any() or wall.ndim != 1:
        raise ValueError("a wall time that is not a positive number")
    start = 0
    for block in told:
        count = int(block["count"])
        samples = wall[start : start + count]
        if count < 1 or samples.size != count:
            raise ValueError("blocks and samples do not fit together")
        start += count
        side = blocks[block["side"]]
        side.samples.extend(samples.tolist())
        side.medians.append(float(np.median(samples)))
        # The clock of CPU time may be coarse; a microsecond keeps the logarithm of a ratio finite.
        side.cpu.append(max(duration(block, "cpu"), 1e-6) / max(count, int(block.get("inferences", count))))
        if block.get("clock_hz") is not None:
            side.clocks.append(duration(block, "clock_hz"))
        for key, kept in (("enqueue", side.enqueue), ("end_to_end", side.end_to_end)):
            if block.get(key) is not None:
                kept.append(duration(block, key))
        if block.get("temperature_c") is not None:
            side.temperatures.append(duration(block, "temperature_c"))
        side.reasons.update(str(reason)[:100] for reason in block.get("reasons") or ())
        side.wall_seconds += float(samples.sum())
        side.thread_seconds += duration(block, "thread_cpu")
    lengths = {len(side.medians) for side in blocks.values()}
    if start != wall.size or len(lengths) != 1 or not told:
        raise ValueError("unpaired blocks")
    return len(told) // len(blocks)


def card_reading(told: Any) -> dict[str, Any] | None:
    """A reading of the card (`hwprofiles.agent.nvml.Card.reading`), checked; None where there is none.

    Raises ValueError, TypeError or LookupError for what no driver tells.
    """
    if told is None:
        return None
    found: dict[str, Any] = {"at": duration(told, "at")}
    for key in ("clock_hz", "temperature_c", "thermal_seconds", "used_bytes"):
        found[key] = None if told.get(key) is None else duration(told, key) if key != "used_bytes" else int(told[key])
    reasons, processes = told.get("reasons"), told.get("processes")
    found["reasons"] = None if reasons is None else [str(reason)[:100] for reason in reasons]
    found["processes"] = processes
    if processes is not None:
        found["processes"] = [
            {"pid": int(entry["pid"]), "bytes": None if entry["bytes"] is None else int(entry["bytes"])}
            for entry in processes
        ]
    return found


def log_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """log(numerator / denominator), pair by pair."""
    return [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]


def unread(facts: Mapping[str, Any]) -> list[str]:
    """What explains a number and could not be read on this machine, of the agent's environment and readings."""
    wanted = {
        "governor": "governor",
        "frequency_hz": "frequency",
        "temperature_c": "temperature",
        "throttle_count": "throttle counters",
        "psi_total": "pressure",
        "steal_total": "steal",
        "energy": "energy",
        "cgroup_peak": "cgroup peak",
    }
    return [name for key, name in wanted.items() if not facts.get(key) and facts.get(key) != 0]
