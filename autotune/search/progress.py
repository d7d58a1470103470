"""What a running study tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autotune.trial import Trial


@dataclass(frozen=True)
class Progress:
    """One message. `done` of `total` steps of `stage`; `seconds_left` is for the whole run, None while unknown."""

    stage: str  # "prepare", "baseline", "search", "recover", "finalists", "done"
    message: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    best: Trial | None = None
    trial: Trial | None = None  # the trial that just finished
    paused: Mapping[str, str] = field(default_factory=dict)  # target that is gone -> how it stands, and why
    outlook: str = ""  # what more trials would bring, in words
    news: bool = False  # something that is said once: it is shown whatever was shown a moment ago, and stays


Watcher = Callable[[Progress], None]


def nobody(_: Progress) -> None:
    """A watcher that does not look."""
