"""How large the steps of a training are: found by short tries, or given; and how they fall along it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from time import monotonic
from typing import Generic, NamedTuple, Protocol, TypeVar

from autotune.recover.batching import Batch
from autotune.recover.nonfinite import NotFinite
from autotune.recover.settings import Progress, Settings, Watch

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
    """What learns: see `pupil`. Losses that are not finite are raised as `NotFinite`."""

    def learn(self, batches: list[Batch], rate: float) -> float: ...

    def validate(self) -> float: ...

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


class Steps(Generic[State]):
    """The steps of a training, tries among them: counted, and told to `watch`."""

    def __init__(
        self, pupil: Pupil[State], clock: Clock, lessons: Iterator[list[Batch]], watch: Watch | None = None
    ) -> None:
        self.pupil, self.clock, self.taken = pupil, clock, 0
        self._lessons, self._watch = lessons, watch

    def lesson(self) -> list[Batch]:
        """What the next step can be taken with."""
        return next(self._lessons)

    def take(self, lesson: list[Batch], rate: float) -> float:
        """The loss of one step. One that breaks down is counted as well."""
        self.taken += 1
        return self.pupil.learn(lesson, rate)

    def tell(self, loss: float, validation: float | None = None) -> None:
        """What came of the step that was taken last."""
        if self._watch is not None:
            self._watch(Progress(self.taken, self.clock.seconds(), loss, validation))


class Found(NamedTuple):
    """Validation and mean loss of what came of tries; NaN where nothing is known."""

    validation: float
    loss: float


class Tried(NamedTuple, Generic[State]):
    """The same of one try, and what the pupil then was. Infinite where it led to numbers that are not finite."""

    validation: float
    loss: float
    state: State


class RateTest(Generic[State]):
    """Finds the rate by taking a few steps at some rates, all from the same weights and with the same samples, and
    looking at validation (after the range test of Smith 2017, arXiv 1506.01186).

    From the first rate it goes up while that is better, else down. The steps at the best rate are not lost: training
    goes on from there. Where all tries together would take more than a quarter of the steps or of the time, judged by
    the first step, there are none.
    """

    def __init__(self, steps: Steps[State], settings: Settings) -> None:
        self._steps, self._pupil, self._clock, self._settings = steps, steps.pupil, steps.clock, settings

    def run(self, start: float) -> Found:
        """What the pupil becomes. `start` is the validation loss before.

        The clock is told the rate that was best, and the pupil is what it became at it; where nothing was better than
        `start`, the clock is told the lowest rate and the pupil is as it was.
        """
        settings, clock = self._settings, self._clock
        given = settings.learning_rate is not None or settings.relative_rate is not None
        if given or len(_RATES) * _TRY > _MOST_TIME * settings.steps:
            return Found(start, math.nan)
        begin, before = self._pupil.state(), clock.seconds()
        lessons = [self._steps.lesson() for _ in range(_TRY)]
        loss = self._learn(lessons[0], _RATES[_FIRST])
        if (clock.seconds() - before) * _TRY * len(_RATES) > _MOST_TIME * 60 * settings.minutes:
            return Found(math.nan, loss)  # no more than the first step of an ordinary training
        tried = {_FIRST: self._try(begin, lessons, _FIRST)}
        at = self._climb(begin, lessons, tried, _FIRST, 1)
        if at == _FIRST:
            at = self._climb(begin, lessons, tried, _FIRST, -1)
        if not tried[at].validation < start:
            self._pupil.restore(begin)
            clock.full = _RATES[0]
            return Found(start, math.nan)
        self._pupil.restore(tried[at].state)
        clock.full = _RATES[at]
        return Found(tried[at].validation, tried[at].loss)

    def _climb(
        self, begin: State, lessons: list[list[Batch]], tried: dict[int, Tried[State]], at: int, direction: int
    ) -> int:
        """Number of the best rate from `at` on in one direction."""
        while 0 <= at + direction < len(_RATES):
            tried[at + direction] = self._try(begin, lessons, at + direction)
            if not tried[at + direction].validation < tried[at].validation:
                break
            at += direction
        return at

    def _try(self, begin: State, lessons: list[list[Batch]], at: int) -> Tried[State]:
        """Some steps from the beginning."""
        self._pupil.restore(begin)
        try:
            losses = [self._learn(lesson, _RATES[at]) for lesson in lessons]
            return Tried(self._pupil.validate(), sum(losses) / len(losses), self._pupil.state())
        except NotFinite:
            return Tried(math.inf, math.nan, begin)

    def _learn(self, lesson: list[Batch], rate: float) -> float:
        loss = self._steps.take(lesson, rate)
        self._steps.tell(loss)
        return loss
