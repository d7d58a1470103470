"""When a training has stopped to gain. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.recover.settings import Settings

_RUINED = 2.0  # times the best loss: the learning rate is too high, so back to the best weights at once


@dataclass(frozen=True)
class Look:
    """What a validation loss says: it is the `best` so far; it is time to go `back` to the best weights."""

    best: bool
    back: bool


class Patience:
    """Judges validation losses in turn; see `Settings` for what `patience` and `least_gain` are."""

    def __init__(self, settings: Settings, start: float) -> None:
        """`start` is the validation loss before the first step that is judged."""
        self._settings = settings
        self._best = self._mark = start
        self._stale = 0  # looks in a row without a gain

    @property
    def over(self) -> bool:
        """Whether training should end."""
        return self._stale >= self._settings.patience

    def look(self, value: float) -> Look:
        """Judge a finite loss."""
        settings = self._settings
        best = value < self._best
        self._best = value if best else self._best
        gained = value < self._mark * (1 - settings.least_gain)
        self._mark, self._stale = (value, 0) if gained else (self._mark, self._stale + 1)
        back = self._stale == max(1, settings.patience // 2) or value > _RUINED * self._best
        return Look(best, back)
