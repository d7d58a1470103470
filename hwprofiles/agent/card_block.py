"""A block of inferences of a session that stays on a card and takes its own times. Runs on the device; Python 3.9."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Timed = tuple[list[float], list[float]]  # seconds of asking (empty: they cannot be told apart) and of the inferences


def time_block(
    count: int, most: int, timed: Callable[[int], Timed], with_copies: Callable[[int], list[float]]
) -> dict[str, Any]:
    """Seconds of `count` inferences, at most `most` by one call of `timed`, and of some with their copies.

    What the session knows besides, how long it took to load and its first inference, is for the caller to add.
    """
    process, thread = time.process_time(), time.thread_time()
    wall: list[float] = []
    enqueue: list[float] = []
    while len(wall) < count:
        asked, took = timed(min(count - len(wall), most))
        enqueue += asked
        wall += took
    copied = with_copies(max(3, min(30, count // 10)))
    return {
        "wall": wall,
        "enqueue": enqueue or None,
        "end_to_end": copied,
        "cpu": time.process_time() - process,
        "thread_cpu": time.thread_time() - thread,
        "inferences": count + len(copied),
    }
