"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from autotune.keys import format_amount, parse_key

if TYPE_CHECKING:
    from autotune.search.progress import Progress
    from autotune.trial import Trial

_SECONDS_BETWEEN_LINES = 10.0  # within one step, where there is no terminal; a finished step is always a line


class ProgressView:
    """Shows `Progress` records: stage, done of total, estimated time left, the best point so far."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[best]}", style="green"),
            console=self._console,
            transient=True,
        )
        self._task = self._bars.add_task("starting", total=1, left="", best="")
        self._shown: tuple[str, int] | None = None
        self._shown_at = 0.0

    def __enter__(self) -> ProgressView:
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bars.stop()

    def refresh(self) -> None:
        """Draw now; between calls the bar is drawn ten times a second."""
        self._bars.refresh()

    def update(self, progress: Progress) -> None:
        """Show one record; cheap enough to be called often."""
        left = "" if progress.seconds_left is None else f"{clock(progress.seconds_left)} left"
        best = "" if progress.best is None else best_text(progress.best)
        if self._live:
            self._bars.update(
                self._task,
                description=f"{progress.stage}: {progress.message}" if progress.message else progress.stage,
                completed=progress.done,
                total=max(progress.total, 1),
                left=left,
                best=best,
            )
            return
        step, now = (progress.stage, progress.done), time.monotonic()
        if step == self._shown and now - self._shown_at < _SECONDS_BETWEEN_LINES:
            return
        self._shown, self._shown_at = step, now
        count = f" {progress.done}/{progress.total}" if progress.total else ""
        parts = [f"{progress.stage}{count}", progress.message, left, best]
        self._console.print("  ".join(part for part in parts if part), markup=False, soft_wrap=True)


def best_text(trial: Trial) -> str:
    """The best point so far in a few words: trial 12: 3.06 MB, 0.83x time, worst slice -0.4 pt."""
    parts = []
    for text, value in {**trial.metrics, **trial.final}.items():
        key = parse_key(text)
        if key.name == "size_bytes":
            parts.append(format_amount(value.value, key))
        elif key.name == "latency_ratio":
            parts.append(f"{format_amount(value.value, key)} time")
        elif text == "drop/worst":
            parts.append(f"worst drop {format_amount(value.value, key)}")
    return f"best: trial {trial.number}, {', '.join(parts)}"


def clock(seconds: float) -> str:
    """1:05 or 1:02:05."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
