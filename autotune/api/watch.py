"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.keys import WORST, WORST_ANYWHERE, format_amount, parse_key

if TYPE_CHECKING:
    from autotune.search.progress import Progress
    from autotune.trial import Trial

_BAR = 32  # columns
_SECONDS_BETWEEN_LINES = 10.0  # within one step, where there is no terminal; a finished step is always a line


class ProgressView:
    """Shows `Progress` records: stage, done of total, estimated time left, what goes on, the best point so far."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, transient=True, refresh_per_second=4)
        self._shown: tuple[object, ...] | None = None
        self._shown_at = 0.0

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show one record; cheap enough to be called often."""
        left = "" if progress.seconds_left is None else f"{clock(progress.seconds_left)} left"
        best = "" if progress.best is None else best_text(progress.best)
        count = f"{progress.done}/{progress.total}" if progress.total else ""
        if self._console.is_terminal:
            if progress.news:  # above the bar, where it stays
                self._console.print(f"{progress.stage}  {progress.message}", markup=False, soft_wrap=True)
            else:
                self._live.update(_picture(progress, count, left, best))
            return
        if progress.news:
            self._console.print(f"{progress.stage}  {progress.message}", markup=False, soft_wrap=True)
            return
        # A target that goes away or comes back is news, whatever was said a moment ago.
        news = progress.message if progress.stage == "targets" else tuple(progress.paused)
        step, now = (progress.stage, progress.done, news), time.monotonic()
        if step == self._shown and now - self._shown_at < _SECONDS_BETWEEN_LINES:
            return
        self._shown, self._shown_at = step, now
        parts = [f"{progress.stage} {count}".rstrip(), progress.message, left, best, progress.outlook]
        if progress.stage != "targets":
            parts += [f"target {name} {how}" for name, how in progress.paused.items()]
        self._console.print("  ".join(part for part in parts if part), markup=False, soft_wrap=True)


def _picture(progress: Progress, count: str, left: str, best: str) -> Group:
    """The bar, what goes on, the best so far, and a line for each target that is gone; cut at the terminal's edge."""
    bar = Table.grid(padding=(0, 1))
    shown = ProgressBar(total=max(progress.total, 1), completed=progress.done, width=_BAR, pulse=not progress.total)
    bar.add_row(progress.stage, shown, count, left)
    lines = [
        Text(f"  {line}", no_wrap=True, overflow="ellipsis")
        for line in (progress.message, best, progress.outlook)
        if line
    ]
    gone = [
        Text(f"  target {name} {how}", no_wrap=True, overflow="ellipsis", style="yellow")
        for name, how in progress.paused.items()
    ]
    return Group(bar, *lines, *gone)


def best_text(trial: Trial) -> str:
    """The best point so far in a few words: trial 12: 3.06 MB, 0.83x time, worst slice -0.4 pt."""
    parts = []
    values = {**trial.metrics, **trial.final}
    several = sum(text.startswith("latency_ratio@") for text in values) > 1
    worst = WORST_ANYWHERE if WORST_ANYWHERE in values else f"drop/{WORST}"
    for text, value in values.items():
        key = parse_key(text)
        if text == "size_bytes":
            parts.append(format_amount(value.value, key))
        elif key.name == "latency_ratio":
            parts.append(f"{format_amount(value.value, key)} time{f' on {key.target}' if several else ''}")
        elif text == worst:
            parts.append(f"worst drop {format_amount(value.value, key)}")
    return f"best: trial {trial.number}, {', '.join(parts)}"


def clock(seconds: float) -> str:
    """1:05 or 1:02:05."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
