"""A model on a card, as torch runs it there, timed by the card's events. Travels to the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from autotune.recover.host_session import Feed, HostSession
from hwprofiles.agent import card_block, cuda_events

Tensor = torch.Tensor

_cuda: Any = torch.cuda  # partly without types
_MOST_EVENTS = 2048


class CardSession(HostSession):
    """A model on a card, timed by the card's events; `conditions` say whether a CUDA graph is replayed."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        super().__init__(path, options)
        self.conditions: dict[str, Any] = {"cuda_graph": False, "transfers": False}
        self._feeds: list[Feed] = []
        self._bound: list[_Bound] = []
        self._first = 0.0

    def time_block(self, feeds: list[Feed], count: int) -> dict[str, Any]:
        """Seconds of `count` inferences; see `card_block.time_block`.

        The next inference is asked for while one runs (as trtexec does), so that the card does not wait for us unless
        asking takes longer, as it does for small models without a CUDA graph; `notes` tell it.
        """
        bound = self._bind(feeds)
        measure = self._on_card if self._device.type == "cuda" else self._on_host
        told = card_block.time_block(
            count,
            _MOST_EVENTS,
            lambda part: self._guarded(measure, bound, part),
            lambda some: self._guarded(self._asking, bound, some),
            lambda some: [self._with_copies(feeds[index % len(feeds)]) for index in range(some)],
        )
        self._launching = card_block.launch_notes(told)
        return {**told, "load": self.load_seconds, "first": self._first}

    def accelerator_memory(self, feed: Feed) -> dict[str, Any]:
        """Weights, and what torch's allocator took at most for the rest of one inference, bytes."""
        call, values = self._written_for(feed), self._place(feed)
        weights = sum(tensor.nbytes for tensor in self._module.buffers())
        if self._device.type != "cuda":
            return {"plan": None, "weights": weights, "activations": None}
        _cuda.synchronize()
        _cuda.reset_peak_memory_stats()
        before = _cuda.memory_allocated()
        self._guarded(call, *values)
        _cuda.synchronize()
        taken = {"activations": _cuda.max_memory_allocated() - before, "reserved": _cuda.max_memory_reserved()}
        return {"plan": None, "weights": weights, **taken}

    def _bind(self, feeds: list[Feed]) -> list[_Bound]:
        """Each feed on the card, and how it is run. The feeds of the last block are kept: they come again."""
        if self._feeds is not feeds:
            self._bound, self._feeds = [], []
            for feed in feeds:
                start = time.perf_counter()
                one = _Bound(self._written_for(feed), self._place(feed))
                self._guarded(one.run)
                self._synchronize()
                self._first = self._first or time.perf_counter() - start
                self._bound.append(one)
            if self._options["cuda_graph"] and self._device.type == "cuda":
                self._capture()
            self._feeds = feeds
        return self._bound

    def _capture(self) -> None:
        try:
            for one in self._bound:
                self._guarded(one.capture)
        except RuntimeError as error:
            if cuda_events.is_full(str(error)):
                raise
            _cuda.synchronize()
            self._notes.append(f"no CUDA graph: {' '.join(str(error).split())[:200]}")
            self._options = {**self._options, "cuda_graph": False}
            self.conditions["cuda_graph"] = False
            for one in self._bound:
                one.replay = None
            return
        self.conditions["cuda_graph"] = True

    def _on_card(self, bound: list[_Bound], count: int) -> list[float]:
        """Seconds on the card of each inference, one of them asked for ahead."""
        events = [_cuda.Event(enable_timing=True) for _ in range(2 * count)]
        for event in events:
            event.record()  # makes it: only then is it free of cost
        _cuda.synchronize()
        for index in range(count):
            events[2 * index].record()
            bound[index % len(bound)].run()
            events[2 * index + 1].record()
            if index:
                events[2 * index - 1].synchronize()
        _cuda.synchronize()
        return [_between(events[2 * i], events[2 * i + 1]) for i in range(count)]

    def _asking(self, bound: list[_Bound], count: int) -> list[float]:
        """Seconds of asking; none on the CPU, where that is computing."""
        if self._device.type != "cuda":
            return []
        return card_block.asking(lambda index: bound[index % len(bound)].run(), _cuda.synchronize, count)

    def _on_host(self, bound: list[_Bound], count: int) -> list[float]:
        took = []
        for index in range(count):
            start = time.perf_counter()
            bound[index % len(bound)].run()
            took.append(time.perf_counter() - start)
        return took

    def _with_copies(self, feed: Feed) -> float:
        start = time.perf_counter()
        self.run(feed)
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            _cuda.synchronize()


class _Bound:
    """A program and the inputs that it gets; `replay` in its place once a CUDA graph was captured."""

    def __init__(self, call: Callable[..., Any], values: list[Tensor]) -> None:
        self.replay: Callable[[], None] | None = None
        self._call, self._values = call, values
        self._kept: Any = None

    def run(self) -> None:
        if self.replay is not None:
            self.replay()
        else:
            self._call(*self._values)

    def capture(self) -> None:
        """Warm up on a side stream, as torch asks for, and capture (pytorch.org/docs, "CUDA Graphs")."""
        aside = _cuda.Stream()
        aside.wait_stream(_cuda.current_stream())
        with _cuda.stream(aside):
            for _ in range(3):
                self._call(*self._values)
        _cuda.current_stream().wait_stream(aside)
        graph = _cuda.CUDAGraph()
        # A capture that fails does not put back the stream that was current: the events would be on another one.
        with _cuda.stream(_cuda.current_stream()), _cuda.graph(graph):
            self._kept = self._call(*self._values)
        self.replay = graph.replay


def _between(start: Any, end: Any) -> float:
    """Seconds between two events; less than a step of their clock is told as one step."""
    return max(float(start.elapsed_time(end)) / 1e3, cuda_events.RESOLUTION)
