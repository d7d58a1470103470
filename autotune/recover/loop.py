"""The training loop behind `training.recover`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch

from autotune.errors import TrialFailure, UsageError
from autotune.layers import Layer
from autotune.recover import fake, frozen, losses, weights
from autotune.recover.batching import Batch, check_inputs
from autotune.recover.descent import Descent, DescentState
from autotune.recover.graph import OnnxModule
from autotune.recover.operators.node import Tensor
from autotune.recover.schedule import Clock, RateTest
from autotune.recover.settings import Checkpoint, Progress, Settings
from autotune.techniques.rounding import Rounding
from hwprofiles.errors import Failure

_RUINED = 2.0  # times the best loss: the learning rate is too high, so back to the best weights at once
_ANSWERS = 256 << 20  # bytes of the teacher's answers that are kept


def train(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    layers: Iterable[Layer],
    decisions: Mapping[str, str],
    ranges: fake.Ranges,
    batches: Iterable[Batch],
    validation: Iterable[Batch],
    settings: Settings,
    *,
    watch: Callable[[Progress], None] | None = None,
    hard_loss: losses.HardLoss | None = None,
    roundings: Mapping[str, Rounding] = {},
    dialect: object = None,
    before: int = 0,
) -> Iterator[Checkpoint]:
    """See `training.recover`."""
    pupil = _Pupil(
        student, teacher, list(layers), decisions, ranges, validation, settings, hard_loss, roundings, dialect, before
    )
    del student, teacher  # the pupil has what it needs of them
    clock, data = Clock(settings), _lessons(_endless(batches), settings)
    best = mark = pupil.validate(0)
    yield Checkpoint(0, clock.seconds(), math.nan, best, pupil.tensors())
    pupil.remember()
    seen: list[float] = []
    stale = 0
    pupil.trying = True
    step, loss, value = RateTest(pupil, clock, settings, data, watch).run(best)
    pupil.trying, pupil.tried = False, step
    if value < best:
        best = mark = value
        pupil.remember()
        yield Checkpoint(step, clock.seconds(), loss, value, pupil.tensors())
    while stale < settings.patience and not clock.over(step):
        step += 1
        loss = pupil.learn(step, next(data), clock.rate(step))
        seen.append(loss)
        looked = pupil.validate(step) if step % settings.evaluate_every == 0 or clock.over(step) else None
        if watch is not None:
            watch(Progress(step, clock.seconds(), loss, looked))
        if looked is None:
            continue
        value = looked
        if value < best:
            best = value
            pupil.remember()
            yield Checkpoint(step, clock.seconds(), float(np.mean(seen)), value, pupil.tensors())
        gained = value < mark * (1 - settings.least_gain)
        mark, stale, seen = (value, 0, []) if gained else (mark, stale + 1, [])
        if stale == max(1, settings.patience // 2) or value > _RUINED * best:
            pupil.go_back()
            clock.slower()


class _Pupil:
    """The student with its quantisers, its teacher, and what is compared of the two."""

    def __init__(
        self,
        student: onnx.ModelProto,
        teacher: onnx.ModelProto,
        layers: list[Layer],
        decisions: Mapping[str, str],
        ranges: fake.Ranges,
        validation: Iterable[Batch],
        settings: Settings,
        hard_loss: losses.HardLoss | None,
        roundings: Mapping[str, Rounding],
        dialect: object,
        before: int,
    ) -> None:
        self._settings, self._before = settings, before
        self.trying, self.tried = False, 0  # whether steps are tries of rates, and how many there were
        self._blamed = False  # the user's own loss was the first that was not finite
        self._student, self._teacher = OnnxModule(student), OnnxModule(teacher, trains=False)
        trained = weights.prepare(self._student, layers, settings)
        self._parameters, self._names = trained.parameters, trained.names
        self._descent = Descent(trained.parameters, trained.units)
        if settings.lora_rank:
            frozen.freeze(self._student, layers, decisions, roundings, dialect)
        self._quantise = partial(
            fake.attach, self._student, _without_weights(student.graph), layers, decisions, ranges, roundings, dialect
        )
        self._quantise()
        self._validation = list(validation)
        if not self._validation:
            raise UsageError("recover: there are no validation samples; give some that training does not see")
        first = self._validation[0]
        check_inputs(student, first.inputs)
        check_inputs(teacher, first.inputs)
        self._outputs = losses.outputs_of(student.graph, teacher.graph, self._answer(first, ()), settings.compare)
        self._features: list[str] = []
        if settings.features:
            self._features = losses.shared_features(student.graph, teacher.graph, layers)
        self._own = hard_loss is not None
        self._hard: losses.HardLoss | None = None
        if settings.hard:
            self._hard = self._of_outputs(hard_loss) if hard_loss else losses.cross_entropy(self._outputs)
        self._answers: dict[int, dict[str, Tensor]] = {}  # number of a validation batch -> the teacher's answers
        self._lessons: dict[int, dict[str, Tensor]] = {}  # place of a training sample -> the teacher's answers
        self._room = _ANSWERS

    def tensors(self) -> Mapping[str, np.ndarray]:
        """The constants that training changes, as they are now."""
        return self._student.merged(self._names)

    def remember(self) -> None:
        """Keep the parameters as they are now."""
        self._best = [parameter.detach().clone() for parameter in self._parameters]

    def state(self) -> tuple[list[Tensor], DescentState]:
        """All that steps change."""
        return [parameter.detach().clone() for parameter in self._parameters], self._descent.state()

    def restore(self, state: tuple[list[Tensor], DescentState]) -> None:
        """Be again what `state` was taken of."""
        self._put(state[0])
        self._descent.restore(state[1])

    def go_back(self) -> None:
        """Put back the parameters that were kept last."""
        self._put(self._best)

    def _put(self, tensors: Iterable[Tensor]) -> None:
        """Let the parameters be `tensors`, with new quantisers: those that were there hold scales, and what weights
        were moved by, of the weights that are left behind."""
        with torch.no_grad():
            for parameter, tensor in zip(self._parameters, tensors, strict=True):
                parameter.copy_(tensor)
        self._student.unquantise()
        self._quantise()

    def learn(self, step: int, batches: list[Batch], rate: float) -> float:
        """One step on the samples of `batches`: their mean loss. Raises `TrialFailure` where it is not finite."""
        self._descent.clear()
        total = sum(float(self._counts(batch).sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            with torch.enable_grad():
                each = self._loss(batch, self._lesson(batch))
                share: Tensor = (each * self._counts(batch)).sum() / total
                share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
        self._check(loss, step, "loss")
        self._descent.step(rate)
        return loss

    def validate(self, step: int) -> float:
        """Mean distillation loss of the validation samples. Raises `TrialFailure` where it is not finite."""
        summed = total = 0.0
        with torch.no_grad():
            for number, batch in enumerate(self._validation):
                counts = self._counts(batch)
                each = self._judged(batch, self._answer_once(number, batch))
                summed += float((each * counts).sum())
                total += float(counts.sum())
        if total == 0:
            raise UsageError("recover: every validation sample has weight 0; weigh some above 0")
        self._check(summed / total, step, "validation loss")
        return summed / total

    def _loss(self, batch: Batch, answers: Mapping[str, Tensor]) -> Tensor:
        settings, count = self._settings, len(batch.weights)
        tensors = self._run(batch)
        parts: list[Tensor] = []
        if settings.soft:
            soft = losses.soft_loss(self._outputs, tensors, answers, count, settings.temperature)
            parts.append(settings.soft * soft)
        if settings.hard:
            parts.append(settings.hard * self._task(tensors, batch))
        if settings.features:
            parts.append(settings.features * losses.feature_loss(self._features, tensors, answers, count))
        return torch.stack(parts).sum(dim=0)

    def _judged(self, batch: Batch, answers: Mapping[str, Tensor]) -> Tensor:
        """What validation looks at: the distillation loss, or that of the labels where only these count."""
        tensors = self._run(batch)
        if self._settings.hard and not self._settings.soft:
            return self._task(tensors, batch)
        return losses.soft_loss(self._outputs, tensors, answers, len(batch.weights), self._settings.temperature)

    def _task(self, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
        if self._hard is None:
            raise UsageError("recover: hard is set but there is no loss to compute; give hard_loss")
        loss = self._hard(tensors, batch.labels)
        if self._own and not bool(torch.isfinite(loss).all()):
            outputs = (tensors[name] for name in self._student.outputs)
            self._blamed = all(bool(torch.isfinite(tensor).all()) for tensor in outputs)
        return loss if loss.dim() == 1 else loss.mean().expand(len(batch.weights))

    def _of_outputs(self, loss: losses.HardLoss) -> losses.HardLoss:
        """A loss of the user's is given the outputs and no other tensors."""
        names = self._student.outputs
        return lambda tensors, labels: loss({name: tensors[name] for name in names}, labels)

    def _run(self, batch: Batch) -> dict[str, Tensor]:
        keep = [output.student for output in self._outputs] + self._features
        return self._student(_tensors(batch.inputs), keep)  # type: ignore[no-any-return]

    def _answer(self, batch: Batch, keep: Iterable[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            return self._teacher(_tensors(batch.inputs), tuple(keep))  # type: ignore[no-any-return]

    def _lesson(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's answers to a training batch; those to a sample that came before are remembered."""
        if batch.places and all(place in self._lessons for place in batch.places):
            known = [self._lessons[place] for place in batch.places]
            return {name: torch.stack([answer[name] for answer in known]) for name in known[0]}
        reads = [output.teacher for output in self._outputs]
        answer = self._answer(batch, [*reads, *self._features])
        rows = {name: answer[name] for name in reads}
        apart = all(tensor.dim() and len(tensor) == len(batch.places) for tensor in rows.values())
        if apart and not self._features:
            for i, place in enumerate(batch.places):
                self._remember(self._lessons, place, {name: tensor[i].clone() for name, tensor in rows.items()})
        return answer

    def _remember(self, kept: dict[int, dict[str, Tensor]], key: int, answer: dict[str, Tensor]) -> None:
        """Keep an answer while there is room."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in answer.values())
        if key not in kept and size <= self._room:
            self._room -= size
            kept[key] = answer

    def _answer_once(self, number: int, batch: Batch) -> dict[str, Tensor]:
        if number in self._answers:
            return self._answers[number]
        reads = [output.teacher for output in self._outputs]
        answer = {name: tensor for name, tensor in self._answer(batch, reads).items() if name in reads}
        self._remember(self._answers, number, answer)
        return answer

    def _counts(self, batch: Batch) -> Tensor:
        counted = batch.weights if self._settings.sample_weights else np.ones_like(batch.weights)
        return torch.from_numpy(np.array(counted, np.float32))

    def _check(self, value: float, step: int, what: str) -> None:
        if math.isfinite(value):
            return
        settings = self._settings
        name = "relative_rate" if settings.learning_rate is None else "learning_rate"
        given = settings.learning_rate or settings.relative_rate
        now = "" if given is None else f" (now {given:g})"
        advice = f"{'set a low' if given is None else 'lower'} {name}{now}"
        subject = f"the {what} became {value}"
        if self._blamed:
            subject = f"the workload's own loss is {value}"
            advice = "the model's outputs were finite, so make Workload.loss finite for every sample"
        elif step == 0:
            advice = "the compressed model gives no finite answers before training; recover a milder recipe"
        elif step == 1 and what == "loss":
            advice = "no weight has changed by then, so the answers to training samples are not finite; check these"
        during = ""
        if self.trying:
            during = " (a try of how large steps may be)"
        elif self.tried and step:
            during = f" ({self.tried} of them tries of how large steps may be)"
        message = f"recover: {subject} at step {self._before + step}{during}; {advice}"
        raise TrialFailure(Failure(kind="nonfinite", stage="recover", message=message))


def _without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Its nodes and outputs."""
    found = onnx.GraphProto()
    found.node.extend(graph.node)
    found.output.extend(graph.output)
    return found


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Epoch after epoch. Raises `UsageError` where an epoch holds nothing to learn from."""
    while True:
        weight = 0.0
        for batch in batches:
            weight += float(np.sum(batch.weights))
            yield batch
        if not weight > 0:
            raise UsageError(
                "recover: there are no training samples (any more); give batches that can be iterated anew"
            )


def _lessons(batches: Iterator[Batch], settings: Settings) -> Iterator[list[Batch]]:
    """For every step batches of together at least `settings.batch` samples that count."""
    while True:
        taken: list[Batch] = []
        while sum(len(batch.weights) for batch in taken) < settings.batch:
            batch = next(batches)
            if batch.weights.any() or not settings.sample_weights:
                taken.append(batch)
        yield taken


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
