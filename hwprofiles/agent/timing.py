"""The stop watch: warm-up and randomised interleaved pairs of blocks. Runs on the device; Python 3.9.

It only collects; every decision about how much is enough is the parent's.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable
from typing import Any

from hwprofiles.agent import counters

Feed = dict[str, Any]
Session = Any  # of a backend: `run(feed)`, or `time_block(feeds, count)` where the model runs in another process

CANDIDATE, BASELINE = "a", "b"

_padding = bytearray()


def move_memory(size: int) -> None:
    """Keep `size` bytes until the next call, so that the model opened next lies elsewhere than the last one did."""
    global _padding
    _padding = bytearray(size)


def warm_up(session: Session, feeds: list[Feed], seconds: float, iterations: int, cap: float) -> dict[str, Any]:
    """Run until at least `seconds` and `iterations` are spent and the last five medians moved less than 3 %.

    Gives up being picky after `cap` seconds: `stable` then says so.
    """
    if hasattr(session, "time_block"):  # it warms up by itself, in each block
        told = session.time_block(feeds, max(iterations, len(feeds)))
        return {"samples": told["wall"], "first": told["first"], "stable": True}
    samples: list[float] = []
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        session.run(feeds[len(samples) % len(feeds)])
        now = time.perf_counter()
        samples.append(now - start)
        enough = now - began >= seconds and len(samples) >= max(iterations, len(feeds))
        settled = enough and _settled(samples)
        if settled or now - began >= cap:
            return {"samples": samples, "first": samples[0], "stable": settled}


def time_pairs(
    sessions: dict[str, Session],
    feeds: list[Feed],
    counts: dict[str, int],
    pairs: int,
    seed: int,
    budget: float,
    check: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Blocks in the order they were run: at most `pairs` pairs, or as many as fit into `budget` seconds (>= 1).

    `check` is called before each pair and raises what is to end the timing.

    Within a pair the order is drawn at random: slow drift cancels, and neither side always profits from the
    other's warm caches, as it would under strict alternation.
    """
    order = random.Random(seed)
    blocks: list[dict[str, Any]] = []
    began = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for pair in range(pairs):
            check()
            sides = sorted(sessions)
            order.shuffle(sides)
            for side in sides:
                block = time_block(sessions[side], feeds, counts[side])
                blocks.append({"pair": pair, "side": side, **block, "clock_hz": counters.clock()})
            if time.perf_counter() - began >= budget:
                break
    finally:
        if collecting:
            gc.enable()
    return blocks


def time_block(session: Session, feeds: list[Feed], count: int) -> dict[str, Any]:
    """`count` inferences one by one.

    Wall seconds of each; CPU seconds of the process and of this thread in all.
    """
    if hasattr(session, "time_block"):
        told = session.time_block(feeds, count)
        return {"count": count, **{key: told[key] for key in ("wall", "cpu", "thread_cpu")}}
    run = session.run
    samples = [0.0] * count
    kinds = len(feeds)
    clock = time.perf_counter
    thread, process = time.thread_time(), time.process_time()
    for index in range(count):
        feed = feeds[index % kinds]
        start = clock()
        run(feed)
        samples[index] = clock() - start
    return {
        "count": count,
        "wall": samples,
        "cpu": time.process_time() - process,
        "thread_cpu": time.thread_time() - thread,
    }


def block_length(samples: list[float], seconds: float, iterations: int, kinds: int) -> int:
    """Inferences per block: at least `iterations` and `seconds`, and every input equally often."""
    typical = median(samples[-20:])
    wanted = max(iterations, math.ceil(seconds / typical) if typical > 0 else iterations)
    return math.ceil(wanted / kinds) * kinds


def median(values: list[float]) -> float:
    """Median of a non-empty list."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _settled(samples: list[float]) -> bool:
    if len(samples) < 10:
        return False
    before, last = median(samples[-10:-5]), median(samples[-5:])
    return abs(last - before) <= 0.03 * before
