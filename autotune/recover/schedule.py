"""How large the steps of a training are: found by short tries, or given; and how they fall along it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Generic, Protocol, TypeVar

from autotune.errors import TrialFailure
from autotune.recover.batching import Batch
from autotune.recover.settings import Progress, Settings

_WARM_UP = 0.05  # of all steps, while the rate rises
_MOST_WARM_UP = 100  # steps; where the time ends it, steps may be any large number
_LEAST_RATE = 0.05  # of the rate, at the end of its cosine
_SLOWER = 0.3  # of the rate, from the best weights on, when it turns out too high
_RATES = (0.001, 0.003, 0.01, 0.03)  # shares of themselves that weights may move by in a step
_FIRST = 1  # the rate that is tried first, and taken where there is no time to try
_TRY = 10  # steps at each rate
_MOST_TIME = 0.25  # of the time, and of the steps, that tries may take

State = TypeVar("State")


class Pupil(Protocol[State]):
    """What learns: see `loop`."""

    def learn(self, step: int, batches: list[Batch], rate: float) -> float: ...

    def validate(self, step: int) -> float: ...

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


class Clock:
    """Steps and time that are left, and the rate that goes with them."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._start, self._share = settings, monotonic(), 1.0
        given = settings.learning_rate or settings.relative_rate
        self.full = _RATES[_FIRST] if given is None else given

    def seconds(self) -> float:
        """Since the training began."""
        return monotonic() - self._start

    def over(self, step: int) -> bool:
        """Whether steps or time are used up."""
        return step >= self._settings.steps or self.seconds() >= 60 * self._settings.minutes

    def slower(self) -> None:
        """Take smaller steps for what is left."""
        self._share *= _SLOWER

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine over the steps; over the minutes where these are clearly what ends it, so
        that only then the clock has a say in the result."""
        settings, full = self._settings, self.full * self._share
        warm = max(1, min(round(_WARM_UP * settings.steps), _MOST_WARM_UP))
        if step < warm:
            return full * step / warm
        steps, minutes = step / settings.steps, self.seconds() / (60 * settings.minutes)
        done = min(1.0, minutes if minutes > 0.2 and minutes > 1.5 * steps else steps)
        return full * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


class RateTest(Generic[State]):
    """Finds the rate by taking a few steps at some rates, all from the same weights and with the same samples, and
    looking at validation (after the range test of Smith 2017, arXiv 1506.01186).

    From the first rate it goes up while that is better, else down. The steps at the best rate are not lost: training
    goes on from there. Where all tries together would take more than a quarter of the steps or of the time, judged by
    the first step, there are none.
    """

    def __init__(
        self,
        pupil: Pupil[State],
        clock: Clock,
        settings: Settings,
        data: Iterator[list[Batch]],
        watch: Callable[[Progress], None] | None,
    ) -> None:
        self._pupil, self._clock, self._settings, self._watch = pupil, clock, settings, watch
        self._data = data
        self._step = 0

    def run(self, start: float) -> tuple[int, float, float]:
        """(steps that were taken, mean loss and validation of what the pupil then is). `start` is the validation loss
        before.

        The clock is told the rate that was best, and the pupil is what it became at it; where nothing was better than
        `start`, the clock is told the lowest rate and the pupil is as it was.
        """
        settings, clock = self._settings, self._clock
        given = settings.learning_rate is not None or settings.relative_rate is not None
        if given or len(_RATES) * _TRY > _MOST_TIME * settings.steps:
            return 0, math.nan, start
        begin, before = self._pupil.state(), clock.seconds()
        lessons = [next(self._data) for _ in range(_TRY)]
        loss = self._learn(lessons[0], _RATES[_FIRST])
        if (clock.seconds() - before) * _TRY * len(_RATES) > _MOST_TIME * 60 * settings.minutes:
            return self._step, loss, math.nan  # no more than the first step of an ordinary training
        tried = {_FIRST: self._try(begin, lessons, _FIRST)}
        at = self._climb(begin, lessons, tried, _FIRST, 1)
        if at == _FIRST:
            at = self._climb(begin, lessons, tried, _FIRST, -1)
        value, loss, state = tried[at]
        if not value < start:
            self._pupil.restore(begin)
            clock.full = _RATES[0]
            return self._step, math.nan, start
        self._pupil.restore(state)
        clock.full = _RATES[at]
        return self._step, loss, value

    def _climb(
        self,
        begin: State,
        lessons: list[list[Batch]],
        tried: dict[int, tuple[float, float, State]],
        at: int,
        direction: int,
    ) -> int:
        """Number of the best rate from `at` on in one direction."""
        while 0 <= at + direction < len(_RATES):
            tried[at + direction] = self._try(begin, lessons, at + direction)
            if not tried[at + direction][0] < tried[at][0]:
                break
            at += direction
        return at

    def _try(self, begin: State, lessons: list[list[Batch]], at: int) -> tuple[float, float, State]:
        """(validation, mean loss, what the pupil is) after some steps from the beginning; infinite where they lead to
        numbers that are not finite."""
        self._pupil.restore(begin)
        try:
            losses = [self._learn(batches, _RATES[at]) for batches in lessons]
            return self._pupil.validate(self._step), sum(losses) / len(losses), self._pupil.state()
        except TrialFailure as failure:
            if failure.failure.kind != "nonfinite":
                raise
            return math.inf, math.nan, begin

    def _learn(self, batches: list[Batch], rate: float) -> float:
        self._step += 1
        loss = self._pupil.learn(self._step, batches, rate)
        if self._watch is not None:
            self._watch(Progress(self._step, self._clock.seconds(), loss))
        return loss
