"""How long a search goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from autotune.config import SearchTable
from autotune.search.forecast import LEAST, Forecast


@dataclass(frozen=True)
class Effort:
    """Stop after `trials` trials beyond the baseline, or `hours` after `begun` (monotonic seconds).

    With `until_stable` before that, when the next trials promise next to nothing. What was found by then is there.
    """

    trials: int
    hours: float | None
    begun: float
    until_stable: bool = False

    def spent(self, finished: int, outlook: Forecast | None = None) -> bool:
        """`finished`: trials of the study that have ended, the baseline not counted."""
        return bool(self.why_spent(finished, outlook))

    def why_spent(self, finished: int, outlook: Forecast | None = None) -> str:
        """Why nothing more is begun, as a sentence; "" while there is effort left."""
        if finished >= self.trials:
            return f"all {self.trials} trials are done"
        if self.hours is not None and time.monotonic() - self.begun >= self.hours * 3600:
            return f"the time of {self.hours:g} h is over"
        if self.until_stable and outlook is not None and outlook.stable:
            return f"the front has stopped moving: {outlook}"
        return ""

    def seconds_left(self, finished: int, per_trial: float) -> float:
        """What the search will still take, at `per_trial` seconds a trial."""
        by_trials = (self.trials - finished) * per_trial
        if self.hours is None:
            return by_trials
        return max(0.0, min(by_trials, self.hours * 3600 - (time.monotonic() - self.begun)))

    def trials_left(self, finished: int, per_trial: float) -> int:
        """How many trials there will still be."""
        if per_trial <= 0:
            return max(0, self.trials - finished)
        return max(0, int(self.seconds_left(finished, per_trial) / per_trial + 0.5))


def before_the_end(search: SearchTable) -> list[str]:
    """One sentence where `until_stable` cannot end a search before its trials do; none where it can."""
    if not search.until_stable or search.trials > LEAST + 1:
        return []
    return [
        f"until_stable (--until-stable) changes nothing here: it looks back on {LEAST + 1} trials before it ends a "
        f"search, and this study has {search.trials} in all; it needs at least {LEAST + 2} (--trials)"
    ]
