"""The training loop behind `training.recover`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import onnx

from autotune.recover.batching import Batch
from autotune.recover.formats import Formats
from autotune.recover.lessons import lessons
from autotune.recover.nonfinite import TRYING, NotFinite, failure_of
from autotune.recover.operators.node import Tensor
from autotune.recover.patience import Patience
from autotune.recover.pupil import Pupil, pupil_of
from autotune.recover.schedule import Clock, RateTest, Steps
from autotune.recover.settings import Checkpoint, HardLoss, Settings, Watch
from autotune.recover.student import StudentState


def train(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    formats: Formats,
    batches: Iterable[Batch],
    validation: Iterable[Batch],
    settings: Settings,
    *,
    watch: Watch | None,
    hard_loss: HardLoss | None,
    before: int,
) -> Iterator[Checkpoint]:
    """See `training.recover`."""
    pupil = pupil_of(student, teacher, formats, validation, settings, hard_loss)
    del student, teacher  # the pupil has what it needs of them
    steps = Steps(pupil, Clock(settings), lessons(batches, settings), watch)
    yield from _Run(pupil, steps, settings, before).checkpoints()


class _Run:
    """One training of a pupil: tries of how large steps may be, then the descent with its early stop."""

    def __init__(self, pupil: Pupil, steps: Steps[StudentState], settings: Settings, before: int) -> None:
        self._pupil, self._steps, self._settings, self._before = pupil, steps, settings, before
        self._best: list[Tensor] = []  # the weights at which validation was best

    def checkpoints(self) -> Iterator[Checkpoint]:
        """The pupil as it is, and then wherever validation is better than ever. Raises `TrialFailure` of kind
        "nonfinite"."""
        with self._telling():
            start = self._pupil.validate()
        yield self._checkpoint(math.nan, start)
        self._best = self._pupil.student.weights()
        with self._telling(TRYING):
            tried = RateTest(self._steps, self._settings).run(start)
        if tried.validation < start:
            start, self._best = tried.validation, self._pupil.student.weights()
            yield self._checkpoint(tried.loss, start)
        tries = self._steps.taken
        with self._telling(f"{tries} of them tries of how large steps may be" if tries else ""):
            yield from self._descend(Patience(self._settings, start))

    def _descend(self, patience: Patience) -> Iterator[Checkpoint]:
        """Until patience, steps or time end; back to the best weights where it goes astray."""
        student, steps, clock = self._pupil.student, self._steps, self._steps.clock
        losses: list[float] = []  # since the last look
        while not patience.over and not clock.over(steps.taken):
            losses.append(steps.take(steps.lesson(), clock.rate(steps.taken + 1)))
            due = steps.taken % self._settings.evaluate_every == 0 or clock.over(steps.taken)
            value = self._pupil.validate() if due else None
            steps.tell(losses[-1], value)
            if value is None:
                continue
            look = patience.look(value)
            if look.best:
                self._best = student.weights()
                yield self._checkpoint(float(np.mean(losses)), value)
            losses = []
            if look.back:
                student.put(self._best)
                clock.slower()

    def _checkpoint(self, loss: float, validation: float) -> Checkpoint:
        steps = self._steps
        return Checkpoint(steps.taken, steps.clock.seconds(), loss, validation, self._pupil.student.tensors())

    @contextmanager
    def _telling(self, during: str = "") -> Iterator[None]:
        """Within it a loss that is not finite becomes the failure of the training, with the step; `during` says what
        kind of steps these are."""
        try:
            yield
        except NotFinite as broken:
            raise failure_of(broken, self._settings, self._steps.taken, before=self._before, during=during) from broken
