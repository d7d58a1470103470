"""Follows the hypervolume of a study from trial to trial, and says what more trials would bring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune import pareto
from autotune.config import StudyConfig
from autotune.keys import MetricKey
from autotune.search.forecast import AHEAD, Forecast, forecast, normalised
from autotune.search.knowledge import corner
from autotune.search.surrogate.front import non_dominated
from autotune.store import Store
from autotune.trial import Trial

_RECENT = 10  # trials that say how long the next ones take
_KEPT = "outlook"  # under this key the store keeps the history and the last forecast


class Outlook:
    """The volume between the front and the corner of what is useful, as a share of all there is to win."""

    def __init__(self, config: StudyConfig, store: Store, objectives: Sequence[MetricKey]) -> None:
        self._store, self._objectives, self._seed = store, tuple(objectives), config.search.seed
        self._corner, self._scales = corner(config, store.trial(0), objectives)
        self._front: list[Trial] = []
        self._history: list[tuple[int, float]] = []  # (trial, volume after it)
        self._seconds: list[float] = []  # of each of these trials, as recorded: known after a resume, too
        for trial in store.trials(details=False):
            if trial.state != "running" and trial.number and not trial.recovered:
                self.add(trial)

    def add(self, trial: Trial) -> None:
        """A trial that has ended."""
        if trial.state == "complete" and all(str(key) in trial.metrics for key in self._objectives):
            self._front.append(trial)
            costs = np.array([[self._cost(key, each) for key in self._objectives] for each in self._front])
            self._front = [each for each, kept in zip(self._front, non_dominated(costs), strict=True) if kept]
        volume = pareto.hypervolume(self._front, self._objectives, self._corner)
        self._history.append((trial.number, normalised(volume, self._scales)))
        if trial.durations:
            self._seconds.append(sum(trial.durations.values()))

    def next(self, trials: int) -> Forecast | None:
        """What so many more trials would bring; None while too little is known."""
        recent = self._seconds[-_RECENT:]
        each = sum(recent) / len(recent) if recent else None
        return forecast([volume for _, volume in self._history], trials, seed=self._seed, seconds_each=each)

    def soon(self) -> Forecast | None:
        """The same of the few trials that decide whether to go on."""
        return self.next(AHEAD)

    def keep(self, trials: int, why: str = "") -> None:
        """Record the history and what `trials` more would bring, for the report; `why` the search ended, if it did."""
        told = self.next(trials)
        kept = ("trials", "gain", "low", "high", "seconds")
        known = None if told is None else {name: getattr(told, name) for name in kept}
        self._store.set_meta(_KEPT, {"volumes": self._history, "forecast": known, "stopped": why})

    def _cost(self, key: MetricKey, trial: Trial) -> float:
        value = trial.metrics[str(key)].value
        return value if key.smaller_is_better else -value
