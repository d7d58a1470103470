"""How long a search goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Stop after `trials` trials beyond the baseline, or `hours` after `begun` (monotonic seconds)."""

    trials: int
    hours: float | None
    begun: float

    def spent(self, finished: int) -> bool:
        """`finished`: trials of the study that have ended, the baseline not counted."""
        late = self.hours is not None and time.monotonic() - self.begun >= self.hours * 3600
        return late or finished >= self.trials

    def seconds_left(self, finished: int, per_trial: float) -> float:
        """What the search will still take, at `per_trial` seconds a trial."""
        by_trials = (self.trials - finished) * per_trial
        if self.hours is None:
            return by_trials
        return max(0.0, min(by_trials, self.hours * 3600 - (time.monotonic() - self.begun)))
