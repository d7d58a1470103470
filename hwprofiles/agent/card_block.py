"""A block of inferences of a session that stays on a card and takes its own times. Runs on the device; Python 3.9.

What the times mean is the same for every runtime of a card, so it stands here: the card's own time of an inference
(`wall`), the host's time of asking for one while nothing is before it in the card's queue (`enqueue`), and the time
of one with its copies (`end_to_end`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

_LEAST, _ASKED, _COPIED = 3, 10, 30  # inferences of a block beside those on the card: at least, and at most of each
_NEARLY = 0.8  # of the time of a replay: the call that takes so long has waited for it

# A card that computes faster than it is asked waits between the two events, and what they tell is at most the asking
# and the computing: less than twice the asking.
_BOUND = 0.5

LAUNCHING = (
    "asking for an inference takes the host more than half of the time that is told for it: the card may have waited "
    "for the host, and the latency be that of launching and not of the card's computation"
)
WAITED = (
    "asking for a replay of the CUDA graph takes (nearly) as long as the replay itself: the runtime seems to wait for "
    "each one, so that none is asked for ahead, and the latency has the launch in it"
)


def time_block(
    count: int,
    most: int,
    timed: Callable[[int], list[float]],
    asked: Callable[[int], list[float]],
    with_copies: Callable[[int], list[float]],
) -> dict[str, Any]:
    """Seconds of `count` inferences, at most `most` by one call of `timed`; of asking for some (empty where the runtime
    cannot tell asking from computing); and of some with their copies.

    What the session knows besides, how long it took to load and its first inference, is for the caller to add.
    """
    process, thread = time.process_time(), time.thread_time()
    wall: list[float] = []
    while len(wall) < count:
        wall += timed(min(count - len(wall), most))
    some = count // 10
    enqueue = asked(max(_LEAST, min(_ASKED, some)))
    copied = with_copies(max(_LEAST, min(_COPIED, some)))
    return {
        "wall": wall,
        "enqueue": enqueue or None,
        "end_to_end": copied,
        "cpu": time.process_time() - process,
        "thread_cpu": time.thread_time() - thread,
        "inferences": count + len(enqueue) + len(copied),
    }


def asking(ask: Callable[[int], Any], settle: Callable[[], Any], count: int) -> list[float]:
    """Seconds of the host for asking for each of `count` inferences; `ask` puts one on the card's queue and `settle`
    waits until the card has done all that was asked for.

    The queue is empty each time: a full one (about 1024 launches) lets the host wait, which is the card's time.
    """
    took = []
    for index in range(count):
        settle()
        start = time.perf_counter()
        ask(index)
        took.append(time.perf_counter() - start)
    settle()
    return took


def launch_notes(told: Mapping[str, Any], *, may_wait: bool = False) -> list[str]:
    """What a person must know of a block's times where asking is more than half of what was timed.

    `may_wait`: what is asked for is one replay of a graph, by a runtime that may wait for it before it returns. That
    one launch takes so long is then the less likely reason.
    """
    if not told["enqueue"]:
        return []
    part = statistics.median(told["enqueue"]) / statistics.median(told["wall"])
    if may_wait and part >= _NEARLY:
        return [WAITED]
    return [LAUNCHING] if part > _BOUND else []
