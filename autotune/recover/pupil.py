"""A student at its lessons: one step on some samples, one look at validation."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
import torch

from autotune.errors import UsageError
from autotune.recover.answers import Answers, answer
from autotune.recover.batching import Batch, check_inputs
from autotune.recover.formats import Formats
from autotune.recover.graph import OnnxModule
from autotune.recover.lessons import counts_of
from autotune.recover.losses import outputs_of, shared_features
from autotune.recover.nonfinite import NotFinite, What
from autotune.recover.objective import Objective, OwnLoss
from autotune.recover.operators.node import Tensor
from autotune.recover.settings import HardLoss, Settings
from autotune.recover.student import Student, StudentState


class Pupil:
    """A `student`, the original's `answers`, and how the two are compared."""

    def __init__(
        self, student: Student, answers: Answers, objective: Objective, validation: list[Batch], settings: Settings
    ) -> None:
        self.student = student
        self._answers, self._objective, self._validation, self._settings = answers, objective, validation, settings

    def learn(self, batches: list[Batch], rate: float) -> float:
        """One step on the samples of `batches`: their mean loss. Raises `NotFinite`, before the step is taken."""
        self.student.clear()
        total = sum(float(counts_of(batch, self._settings).sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            answers = self._answers.to_lesson(batch)
            with torch.enable_grad():
                each = self._objective.loss(self._answered(batch), answers, batch)
                share: Tensor = (each * counts_of(batch, self._settings)).sum() / total
                share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
        self._check(loss, "loss", batches)
        self.student.step(rate)
        return loss

    def validate(self) -> float:
        """Mean loss of the validation samples: see `Objective.validation`. Raises `NotFinite`."""
        summed = total = 0.0
        with torch.no_grad():
            for number, batch in enumerate(self._validation):
                counts = counts_of(batch, self._settings)
                answers = self._answers.to_validation(number, batch)
                each = self._objective.validation(self._answered(batch), answers, batch)
                summed += float((each * counts).sum())
                total += float(counts.sum())
        if total == 0:
            raise UsageError("recover: every validation sample has weight 0; weigh some above 0")
        self._check(summed / total, "validation loss", self._validation)
        return summed / total

    def state(self) -> StudentState:
        """All that steps change."""
        return self.student.state()

    def restore(self, state: StudentState) -> None:
        """Be again what `state` was taken of."""
        self.student.restore(state)

    def _check(self, value: float, what: What, batches: list[Batch]) -> None:
        if not math.isfinite(value):
            raise NotFinite(what, value, self._answers.missing(batches))

    def _answered(self, batch: Batch) -> dict[str, Tensor]:
        return self.student.answer(batch, self._objective.of_student)


def pupil_of(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    formats: Formats,
    validation: Iterable[Batch],
    settings: Settings,
    hard_loss: HardLoss | None,
) -> Pupil:
    """A pupil that learns from `teacher`; keeps neither of the two models.

    Raises `UsageError` without validation samples, and what the parts raise.
    """
    # Both before the moments of the descent are made: the other way round the peak of memory is 7 % higher.
    module, original = OnnxModule(student), OnnxModule(teacher, trains=False)
    learns = Student(module, student.graph, formats, settings)
    samples = list(validation)
    if not samples:
        raise UsageError("recover: there are no validation samples; give some that training does not see")
    for model in (student, teacher):
        check_inputs(model, samples[0].inputs)
    outputs = outputs_of(student.graph, teacher.graph, answer(original, samples[0]), settings.compare)
    features = shared_features(student.graph, teacher.graph, formats.layers) if settings.features else []
    own = OwnLoss(hard_loss, learns.outputs) if hard_loss is not None else None
    objective = Objective(settings, outputs, features, own)
    return Pupil(learns, Answers(original, objective.of_teacher, features), objective, samples, settings)
