"""The steps of a trial are timed, and a request to stop is obeyed between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from autotune.search.targets import Stopped


@dataclass
class StepClock:
    """`durations`: step -> seconds, over all its turns; `stage`: the step that was begun last."""

    stop: threading.Event
    durations: dict[str, float] = field(default_factory=dict)
    stage: str = "start"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside. Raises `Stopped` before it where a stop was asked for."""
        if self.stop.is_set():
            raise Stopped
        self.stage = name
        begun = time.monotonic()
        try:
            yield
        finally:
            self.durations[name] = self.durations.get(name, 0.0) + time.monotonic() - begun
