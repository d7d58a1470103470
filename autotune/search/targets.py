"""The targets of a running study: which are there, which are paused and why, and when they are tried again.

A target that is gone says nothing about the recipe that was being measured. It pauses only itself: everything that
needs it waits, and the study goes on with the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from autotune.config import PatienceTable
from hwprofiles.errors import DeviceFailure, TargetBusy, TargetUnavailable

GONE = (TargetUnavailable, TargetBusy)  # what a device raises when it, and not the model, is the reason
_SLICE = 0.5  # seconds after which a request to stop is looked at


class Stopped(Exception):
    """The user asked to stop; the trial stays in the store as running and is continued by the next run."""


class TargetPaused(TargetUnavailable):
    """A target is not there now; `target` is its name. What was recorded stays, the rest waits for it."""

    def __init__(self, target: str, why: str) -> None:
        super().__init__(why)
        self.target = target


class Reached(Protocol):
    """The part of a device that a paused target needs; whatever else broke, a device mends with its next use."""

    def holder(self) -> str | None:
        """Who holds the device now, None if nobody does: the cheapest question. Raises `TargetUnavailable`."""


@dataclass
class _Pause:
    """Since when and why a target is gone."""

    why: str
    failures: int  # in a row
    again: float  # when it is tried again, in seconds of the clock
    quarantined: bool


class Targets:
    """Keeps the targets of one run. `tell` is called with a sentence whenever a target is paused or comes back."""

    def __init__(
        self,
        devices: Mapping[str, Reached],
        patience: PatienceTable,
        stop: threading.Event,
        tell: Callable[[str], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience = patience
        self.tell = tell
        self._devices, self._stop, self._clock = devices, stop, clock
        self._pauses: dict[str, _Pause] = {}
        self._failures: dict[str, int] = {}  # in a row; a target that answers again has not yet proven itself

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Around anything that needs the target. Raises `TargetPaused` where it is paused, or goes away meanwhile.

        A process that dies before it has seen a model (stage "start") says nothing about the model either.
        """
        pause = self._pauses.get(name)
        if pause is not None:
            raise TargetPaused(name, pause.why)
        try:
            yield
        except (*GONE, DeviceFailure) as error:
            if isinstance(error, DeviceFailure) and error.failure.stage != "start":
                raise
            self._pause(name, error)
            raise TargetPaused(name, self._pauses[name].why) from error
        self._failures.pop(name, None)

    @property
    def paused(self) -> frozenset[str]:
        """Targets that nothing is run on now."""
        return frozenset(self._pauses)

    def any_there(self) -> bool:
        """Whether there is a target to work on."""
        return len(self._pauses) < len(self._devices)

    def hopeful(self, names: Collection[str]) -> bool:
        """Whether waiting for one of `names` is worth it: paused, but not quarantined, or back already."""
        return any(name not in self._pauses or not self._pauses[name].quarantined for name in names)

    def state(self) -> dict[str, str]:
        """Paused target -> in words: how it stands with it, and why."""
        return {name: self._words(pause) for name, pause in sorted(self._pauses.items())}

    def retry(self, *, now: bool = False) -> None:
        """Ask those again whose time has come; with `now` all of them."""
        for name, pause in list(self._pauses.items()):
            if not now and self._clock() < pause.again:
                continue
            if self._stop.is_set():
                raise Stopped
            self.tell(f"trying target {name} again")
            try:
                held = self._devices[name].holder()
                if held is not None:
                    raise TargetBusy(f"target {name!r} is in use by {held}")
            except GONE as error:
                self._pause(name, error)
            else:
                del self._pauses[name]
                self.tell(f"target {name} is back")

    def wait(self, seconds: float = float("inf")) -> None:
        """Until the next target is to be tried again, at most `seconds`; then try. Raises `Stopped`."""
        end = min((p.again for p in self._pauses.values()), default=self._clock())
        end = min(end, self._clock() + seconds)
        while (left := end - self._clock()) > 0:
            if self._stop.wait(min(left, _SLICE)):
                raise Stopped
        self.retry()

    def outlast(self, names: Collection[str]) -> bool:
        """Wait until one of `names` is back; False once all of them are quarantined and still do not answer."""
        while self.hopeful(names):
            if any(name not in self._pauses for name in names):
                return True
            self.wait()
        self.retry(now=True)
        return any(name not in self._pauses for name in names)

    def _pause(self, name: str, error: Exception) -> None:
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        pauses = self.patience.pauses
        again = self._clock() + pauses[min(failures, len(pauses)) - 1]
        quarantined = failures >= self.patience.failures
        pause = self._pauses[name] = _Pause(" ".join(str(error).split()), failures, again, quarantined)
        self.tell(f"target {name} is {self._words(pause)}")

    def _words(self, pause: _Pause) -> str:
        how = f"quarantined after {pause.failures} failures in a row" if pause.quarantined else "paused"
        return f"{how}, next try in {max(0.0, pause.again - self._clock()):.0f} s: {pause.why}"
