"""CUDA's events by ctypes, for a runtime that gives no stop watch of its own; and which of CUDA's errors mean what.

Needs neither torch nor `cuda-bindings`: libcudart came with the runtime. Runs on the device; Python 3.9.
Source: CUDA Runtime API, NVIDIA (docs.nvidia.com/cuda/cuda-runtime-api).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

RESOLUTION = 0.5e-6  # seconds, of an event's time stamp (CUDA Runtime API, cudaEventElapsedTime)

_ORDERED = 0  # cudaStreamDefault: takes turns with the default stream, on which a runtime copies arrays
_MAJORS = (13, 12, 11)

# Only a new process helps against these: afterwards every call on the card fails.
_FATAL = (
    "illegal memory access",
    "illegal address",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert triggered",  # the words alone end every error of torch's, as advice
    "uncorrectable ecc",
    "misaligned address",
    "illegal instruction",
)
_FULL = (
    *("out of memory", "outofmemory", "insufficient memory", "allocate memory", "failed to allocate"),
    *("bad_alloc", "alloc_failed", "memory allocation"),
)


class CardBroken(BaseException):
    """The card's context is lost. No answer about a model that a process could live on with: it must end."""


def is_full(text: str) -> bool:
    """Whether an error's text says that the card's memory is used up."""
    return any(words in text.lower() for words in _FULL)


def refuse_broken(error: Exception) -> None:
    """Raise `CardBroken` for an error after which the process cannot use the card any more."""
    text = str(error).lower()
    if any(words in text for words in _FATAL):
        raise CardBroken(f"the card's context is lost: {' '.join(str(error).split())[:400]}") from error


class Clock:
    """A stream, and events on it that the card itself stamps, to `RESOLUTION`."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        handle = ctypes.c_void_p()
        self._do("cudaStreamCreateWithFlags", ctypes.byref(handle), ctypes.c_uint(_ORDERED))
        self.stream = int(handle.value or 0)  # the pointer, as other libraries want it
        self._events: list[ctypes.c_void_p] = []

    def reserve(self, count: int) -> None:
        """Make `count` events beforehand: making one takes longer than a small model."""
        while len(self._events) < count:
            event = ctypes.c_void_p()
            self._do("cudaEventCreateWithFlags", ctypes.byref(event), ctypes.c_uint(0))
            self._events.append(event)

    def stamp(self, number: int) -> None:
        """Let event `number` happen when everything that was asked for before is done."""
        self._do("cudaEventRecord", self._events[number], ctypes.c_void_p(self.stream))

    def wait(self, number: int) -> None:
        """Until event `number` has happened."""
        self._do("cudaEventSynchronize", self._events[number])

    def seconds(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Between two events each, which must have happened; less than a step of their clock is told as one step."""
        found, between = [], ctypes.c_float()
        for start, end in pairs:
            self._do("cudaEventElapsedTime", ctypes.byref(between), self._events[start], self._events[end])
            found.append(max(between.value / 1e3, RESOLUTION))
        return found

    def close(self) -> None:
        """Give stream and events back; whoever was given `stream` must be gone."""
        for event in self._events:
            self._do("cudaEventDestroy", event)
        self._events = []
        self._do("cudaStreamDestroy", ctypes.c_void_p(self.stream))

    def _do(self, name: str, *arguments: Any) -> None:
        """Call it. Raises RuntimeError with CUDA's words."""
        code = getattr(self._runtime, name)(*arguments)
        if code:
            self._runtime.cudaGetErrorString.restype = ctypes.c_char_p
            said = self._runtime.cudaGetErrorString(code)
            raise RuntimeError(f"CUDA failure {code}: {(said or b'').decode(errors='replace')} ({name})")


def open_clock() -> Clock | None:
    """A clock by the libcudart that the runtime has loaded, or that the system has; None where there is none."""
    for major in _MAJORS:
        try:
            return Clock(ctypes.CDLL(f"libcudart.so.{major}"))
        except (OSError, RuntimeError):
            continue
    return None
