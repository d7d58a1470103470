"""Times of an engine on the card, and which of several engines is the fastest; Python 3.9.

Time is that of the card: CUDA events around replays of a CUDA graph, as `trtexec` measures by default. What the times
of a block mean is in `hwprofiles.agent.card_block`, the same for all runtimes of a card.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from hwprofiles.agent import card_block, cuda_events

Start = Callable[[], None]  # puts one inference on the card's queue

_SHORT, _SPAN = 20e-6, 100e-6  # seconds: below the first, replays fill the second between two events (0.5 us apart)
_CHUNK = 1000  # samples between two looks at the clock of the card: events are made once and used again
_KNOWN = 10  # samples that tell how long an inference takes
_ROUNDS = 4  # in which each engine is opened and timed once; even, so that a steady drift hits all alike
_SAMPLES = 10  # of an engine in a round
_LOAD = 0.2  # seconds of work that a card's clocks need to rise


class Timer:
    """Takes the times of one engine. `card`: what `hwprofiles.agent.cuda.open_cuda` gives."""

    def __init__(self, card: Any) -> None:
        self.replays = 0  # inferences between two events; 0: not known yet
        self._card = card
        self._events: list[Any] = []
        self._turn = 0

    def block(self, starts: Sequence[Start], count: int, with_copies: Callable[[int], list[float]]) -> dict[str, Any]:
        """About `count` inferences, by all of `starts` in turn; see `card_block.time_block`."""
        replays = max(1, self.replays)
        samples = max(1, count // replays)
        with self._card.on_stream():
            told = card_block.time_block(
                samples,
                _CHUNK,
                lambda part: self._on_card(starts, part, replays),
                lambda some: card_block.asking(
                    lambda index: starts[index % len(starts)](), self._card.synchronize, some
                ),
                with_copies,
            )
        told["inferences"] += samples * (replays - 1)
        if not self.replays and len(told["wall"]) >= _KNOWN:
            typical = statistics.median(told["wall"])
            self.replays = 1 if typical >= _SHORT else math.ceil(_SPAN / typical)
        return told

    def _on_card(self, starts: Sequence[Start], samples: int, replays: int) -> list[float]:
        """Seconds of the card for one inference, per sample. All are asked for before the first is looked at."""
        while len(self._events) < 2 * samples:
            self._events.append(self._card.event())
        record = self._card.record
        for index in range(samples):
            record(self._events[2 * index])
            for _ in range(replays):
                starts[self._turn % len(starts)]()
                self._turn += 1
            record(self._events[2 * index + 1])
        self._card.synchronize()
        pairs = [(self._events[2 * index], self._events[2 * index + 1]) for index in range(samples)]
        return [max(self._card.elapsed(*pair), cuda_events.RESOLUTION) / replays for pair in pairs]


def compare(
    openings: Sequence[Callable[[], AbstractContextManager[Callable[[int], list[float]]]]],
    survived: tuple[type[Exception], ...],
) -> list[float | Exception]:
    """Median seconds of one inference of each engine, or which of the errors `survived` it ended with: the others are
    timed all the same.

    Each of `openings` loads an engine, gives what takes so many samples of it, and lets go of it. Only one is loaded at
    a time: all together might not fit on the card. They are timed in rounds, forwards and backwards in turn, so that a
    card that warms up meanwhile favours none, and each one only after its own inferences have been the card's load for
    `_LOAD`.
    """
    found: list[list[float]] = [[] for _ in openings]
    failed: dict[int, Exception] = {}
    for number in range(_ROUNDS):
        order = list(range(len(openings)))
        for index in order if number % 2 == 0 else reversed(order):
            if index in failed:
                continue
            try:
                with openings[index]() as sample:
                    began = time.perf_counter()
                    sample(_SAMPLES)
                    while time.perf_counter() - began < _LOAD:
                        sample(_SAMPLES)
                    found[index] += sample(_SAMPLES)
            except survived as error:
                failed[index] = error.with_traceback(None)  # its frames hold the engine, and that the card's memory
    return [failed.get(index) or statistics.median(samples) for index, samples in enumerate(found)]
