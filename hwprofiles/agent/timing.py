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
Session = Any  # of a backend: `run(feed)`, or `time_block(feeds, count)` where it takes its times itself

CANDIDATE, BASELINE = "a", "b"

_WARM_BLOCK = 10_000  # inferences in a block of a warm-up, at most

_padding = bytearray()


def move_memory(size: int) -> None:
    """Keep `size` bytes until the next call, so that the model opened next lies elsewhere than the last one did."""
    global _padding
    _padding = bytearray(size)


def is_resident(session: Session) -> bool:
    """Whether the model stays on an accelerator between two blocks. One that takes its times itself and is not there
    runs in a process of its own, which loads and warms up for each block."""
    return hasattr(session, "accelerator_memory")


def look_at_cpu() -> dict[str, Any]:
    """What is read after each block on a machine whose CPU does the work."""
    return {"clock_hz": counters.clock()}


def warm_up(session: Session, feeds: list[Feed], seconds: float, iterations: int, cap: float) -> dict[str, Any]:
    """Run until at least `seconds` and `iterations` are spent and the last five medians moved less than 3 %.

    Gives up being picky after `cap` seconds: `stable` then says so.
    """
    if is_resident(session):
        return _warm_up_card(session, feeds, seconds, max(iterations, len(feeds)), cap)
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


def _warm_up_card(session: Session, feeds: list[Feed], seconds: float, iterations: int, cap: float) -> dict[str, Any]:
    """`warm_up` by blocks of the session's own stop watch, each of about a tenth of `seconds`."""
    samples: list[float] = []
    medians: list[float] = []
    first, count, inferences = 0.0, len(feeds), 0
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        told = session.time_block(feeds, count)
        now = time.perf_counter()
        first = first or told["first"]
        samples += told["wall"]
        medians.append(median(told["wall"]))
        inferences += count
        enough = now - began >= seconds and inferences >= iterations
        settled = enough and (_settled(medians) or seconds == 0)
        if settled or now - began >= cap:
            return {"samples": samples, "first": first, "stable": settled}
        wanted = count * (seconds / 10) / max(now - start, 1e-6)
        count = max(len(feeds), math.ceil(min(wanted, 4 * count, _WARM_BLOCK) / len(feeds)) * len(feeds))


def time_pairs(
    sessions: dict[str, Session],
    feeds: list[Feed],
    counts: dict[str, int],
    pairs: int,
    seed: int,
    budget: float,
    check: Callable[[], None] = lambda: None,
    look: Callable[[], dict[str, Any]] = look_at_cpu,
) -> list[dict[str, Any]]:
    """Blocks in the order they were run: at most `pairs` pairs, or as many as fit into `budget` seconds (>= 1).

    `check` is called before each pair and raises what is to end the timing; `look` after each block, for what is to be
    known of the device at that time.

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
                blocks.append({"pair": pair, "side": side, **block, **look()})
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
        block = {"count": len(told["wall"]), "inferences": told.get("inferences", count)}
        block.update((key, told[key]) for key in ("wall", "cpu", "thread_cpu"))
        if is_resident(session):
            block.update(enqueue=told["enqueue"], end_to_end=told["end_to_end"])
        return block
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
        "inferences": count,
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
