"""torch and cuda-bindings on a simulated card, with what the real ones do about streams and memory.

torch's copies, replays and allocations go to the stream that is current, whatever stream their user has in mind; its
allocator keeps what it is given back. Every call of cuda-bindings is told its stream. The real `TorchCuda` and
`BoundCuda` run on these.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.unit.hwprofiles.tensorrt.simulated_card import Card

FOOTER = "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."  # ends every error of CUDA in torch


class Torch:
    """What stands for the module `torch`. `kept`: bytes of the card that its allocator holds and nobody uses."""

    uint8 = "uint8"

    def __init__(self, card: Card) -> None:
        self.card = card
        self.kept = 0
        self.current = 0  # the default stream
        self._aside: _Stream | None = None
        self.cuda = SimpleNamespace(
            OutOfMemoryError=type("OutOfMemoryError", (RuntimeError,), {}),
            Stream=lambda: _Stream(card, card.new_stream()),
            Event=lambda enable_timing: _Event(self),
            CUDAGraph=lambda: _Graph(self),
            graph=self._graph,
            stream=self._stream,
            set_stream=lambda stream: setattr(self, "current", stream.cuda_stream),
            current_stream=lambda: _Stream(card, self.current),
            synchronize=card.settle,
            empty_cache=self._empty_cache,
            is_available=lambda: True,
        )

    def empty(self, size: int, dtype: str, device: str = "cpu", pin_memory: bool = False) -> _Tensor:
        assert dtype == self.uint8 and (device == "cuda") != pin_memory
        if device == "cuda":
            reused = min(self.kept, size)
            if not self.card.take(size - reused):
                raise self.cuda.OutOfMemoryError("CUDA out of memory. simulated\nmore lines")
            self.kept -= reused
        return _Tensor(self, size, device)

    def _graph(
        self, graph: _Graph, pool: Any = None, stream: _Stream | None = None, capture_error_mode: str = "global"
    ) -> _Capture:
        if self._aside is None:  # one for all captures that are given none
            self._aside = _Stream(self.card, self.card.new_stream())
        return _Capture(self, graph, stream or self._aside)

    @contextlib.contextmanager
    def _stream(self, stream: _Stream) -> Iterator[None]:
        before, self.current = self.current, stream.cuda_stream
        try:
            yield
        finally:
            self.current = before

    def _empty_cache(self) -> None:
        self.card.memory += self.kept
        self.kept = 0


class _Stream:
    def __init__(self, card: Card, number: int) -> None:
        self.cuda_stream = number
        self._card = card

    def synchronize(self) -> None:
        self._card.settle(self.cuda_stream)

    def wait_stream(self, other: _Stream) -> None:
        """What is put on this one from now on comes after all that is on the other now."""
        number = other.cuda_stream
        self._card.mark(self.cuda_stream, lambda: self._card.settle(number))
        mine, theirs = self._card.streams[self.cuda_stream], self._card.streams[number]
        mine.now = max(mine.now, theirs.now)


class _Event:
    """Made at its first record, which takes the host 5 us."""

    def __init__(self, torch: Torch) -> None:
        self._torch = torch
        self._made = self.happened = False
        self._number = 0
        self.at = 0.0

    def record(self, stream: _Stream | None = None) -> None:
        self._torch.card.host += 0.0 if self._made else 5e-6
        self._made, self.happened = True, False
        self._number = self._torch.current if stream is None else stream.cuda_stream
        self.at = self._torch.card.mark(self._number, lambda: setattr(self, "happened", True))

    def synchronize(self) -> None:
        self._torch.card.settle(self._number)

    def elapsed_time(self, other: _Event) -> float:
        if not (self.happened and other.happened):
            raise RuntimeError("CUDA error: device not ready")
        return (other.at - self.at) * 1e3


class _Graph:
    def __init__(self, torch: Torch) -> None:
        self._torch = torch
        self.launch: Callable[[int], None] | None = None

    def replay(self) -> None:
        assert self.launch is not None
        self.launch(self._torch.current)


class _Capture:
    """`torch.cuda.graph`, which leaves its stream current where the capture fails."""

    def __init__(self, torch: Torch, graph: _Graph, stream: _Stream) -> None:
        self._torch, self._graph, self._stream = torch, graph, stream

    def __enter__(self) -> None:
        self._torch.card.settle()
        self._before, self._torch.current = self._torch.current, self._stream.cuda_stream
        self._torch.card.begin_capture(self._stream.cuda_stream)

    def __exit__(self, *_: object) -> None:
        self._graph.launch = self._torch.card.end_capture()
        if not self._torch.card.graphs:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing\n{FOOTER}")
        self._torch.current = self._before


class _Tensor:
    def __init__(self, torch: Torch, size: int, device: str) -> None:
        self._torch, self._size, self._device = torch, size, device
        self._array = np.zeros(size, np.uint8)

    def __del__(self) -> None:
        self._torch.kept += self._size if self._device == "cuda" else 0

    def data_ptr(self) -> int:
        return int(self._array.ctypes.data)

    def numpy(self) -> Any:
        assert self._device == "cpu"
        return self._array

    def copy_(self, other: _Tensor, non_blocking: bool = False) -> None:
        assert non_blocking
        to, of = self._array, other._array

        def copy() -> None:
            to[:] = of

        self._torch.card.launch(0.0, asking=0.0, stream=self._torch.current, work=copy)


class Bindings:
    """What stands for the module `cuda.bindings.runtime`: every function gives a code, and then what it made.

    `alive`: what was made and not given back, by kind.
    """

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, card: Card) -> None:
        self._card = card
        self._memory: dict[int, Any] = {}
        self._handles: dict[int, Any] = {}
        self.alive = {"stream": 0, "event": 0, "graph": 0, "executable": 0, "memory": 0, "pinned": 0}
        self.error = 0  # what every call on a stream ends with

    def cudaSetDevice(self, device: int) -> tuple[int]:
        assert device == 0
        return (self.error,)

    def cudaGetLastError(self) -> tuple[int]:
        return (0,)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        known = {2: b"out of memory", 35: b"CUDA driver version is insufficient for CUDA runtime version"}
        known |= {
            700: b"an illegal memory access was encountered",
            900: b"operation not permitted when stream is capturing",
        }
        return 0, known[error]

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        self.alive["stream"] += 1
        return 0, self._card.new_stream()

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.alive["stream"] -= 1
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        self._card.settle(stream)
        return (self.error,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        if not self._card.take(size):
            return 2, 0
        return self._allocate("memory", size)

    def cudaFree(self, devPtr: int) -> tuple[int]:
        self._card.memory += len(self._memory[devPtr])
        return self._give_back("memory", devPtr)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self._allocate("pinned", size)

    def cudaFreeHost(self, ptr: int) -> tuple[int]:
        return self._give_back("pinned", ptr)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: int, stream: int) -> tuple[int]:
        assert len(self._memory[dst]) >= count and len(self._memory[src]) >= count and kind in (1, 2)
        self._card.launch(0.0, asking=0.0, stream=stream, work=lambda: ctypes.memmove(dst, src, count) and None)
        return (0,)

    def cudaEventCreate(self) -> tuple[int, int]:
        return self._make("event", SimpleNamespace(at=0.0, happened=False))

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        return self._unmake("event", event)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        made = self._handles[event]
        made.happened = False
        made.at = self._card.mark(stream, lambda: setattr(made, "happened", True))
        return (0,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        first, last = self._handles[start], self._handles[end]
        assert first.happened and last.happened
        return 0, (last.at - first.at) * 1e3

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self._card.begin_capture(stream)
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        assert self._card.capturing == stream
        launch = self._card.end_capture()
        return self._make("graph", launch) if self._card.graphs else (900, 0)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        return self._make("executable", self._handles[graph])

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        return self._unmake("graph", graph)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[int]:
        return self._unmake("executable", graphExec)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[int]:
        self._handles[graphExec](stream)
        return (self.error,)

    def _allocate(self, kind: str, size: int) -> tuple[int, int]:
        array = np.zeros(size, np.uint8)
        self._memory[array.ctypes.data] = array
        self.alive[kind] += 1
        return 0, int(array.ctypes.data)

    def _give_back(self, kind: str, pointer: int) -> tuple[int]:
        del self._memory[pointer]
        self.alive[kind] -= 1
        return (0,)

    def _make(self, kind: str, what: Any) -> tuple[int, int]:
        number = 1000 + len(self._handles)
        self._handles[number] = what
        self.alive[kind] += 1
        return 0, number

    def _unmake(self, kind: str, number: int) -> tuple[int]:
        self._handles[number] = None
        self.alive[kind] -= 1
        return (0,)
