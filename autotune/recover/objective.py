"""What a student is compared with: the original's answers, its activations, the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from autotune.recover.batching import Batch
from autotune.recover.losses import Output, Tensors, cross_entropy, feature_loss, soft_loss
from autotune.recover.nonfinite import NotFinite
from autotune.recover.operators.node import Tensor
from autotune.recover.settings import HardLoss, Settings


class Objective:
    """The losses of a training, weighed as its settings say."""

    def __init__(
        self, settings: Settings, outputs: list[Output], features: list[str], hard_loss: HardLoss | None
    ) -> None:
        """`features` are activations that both graphs have by the same names. `hard_loss` None: cross entropy of the
        only output; raises `UsageError` where labels are to count and the outputs have another form."""
        self._settings, self._outputs, self._features = settings, outputs, features
        self._task = (hard_loss or cross_entropy(outputs)) if settings.hard else None

    @property
    def of_student(self) -> list[str]:
        """Tensors of the student that are compared."""
        return [*(output.student for output in self._outputs), *self._features]

    @property
    def of_teacher(self) -> list[str]:
        """Outputs of the original, or what goes into their softmax, that are compared."""
        return [output.teacher for output in self._outputs]

    @property
    def features(self) -> list[str]:
        """Activations of both that are compared."""
        return self._features

    def loss(self, tensors: Tensors, answers: Tensors, batch: Batch) -> Tensor:
        """What is to become small, per sample [samples]; `tensors` are the student's, `answers` the original's."""
        settings, count = self._settings, len(batch.weights)
        parts: list[Tensor] = []
        if settings.soft:
            parts.append(settings.soft * soft_loss(self._outputs, tensors, answers, count, settings.temperature))
        if self._task is not None:
            parts.append(settings.hard * _per_sample(self._task, tensors, batch))
        if settings.features:
            parts.append(settings.features * feature_loss(self._features, tensors, answers, count))
        return torch.stack(parts).sum(dim=0)

    def validation(self, tensors: Tensors, answers: Tensors, batch: Batch) -> Tensor:
        """What validation looks at, per sample [samples]: the distillation loss, or that of the labels where only these
        count."""
        if self._task is not None and not self._settings.soft:
            return _per_sample(self._task, tensors, batch)
        return soft_loss(self._outputs, tensors, answers, len(batch.weights), self._settings.temperature)


class OwnLoss:
    """A loss of the user's, which is given the outputs and no other tensors.

    Raises `NotFinite` where it makes NaN or infinity of finite outputs.
    """

    def __init__(self, loss: HardLoss, outputs: tuple[str, ...]) -> None:
        self._loss, self._outputs = loss, outputs

    def __call__(self, tensors: Mapping[str, Tensor], labels: tuple[Any, ...]) -> Tensor:
        outputs = {name: tensors[name] for name in self._outputs}
        loss = self._loss(outputs, labels)
        if not _finite(loss) and all(_finite(output) for output in outputs.values()):
            raise NotFinite("workload's own loss", float(loss.detach().double().mean()))
        return loss


def _per_sample(loss: HardLoss, tensors: Tensors, batch: Batch) -> Tensor:
    found = loss(tensors, batch.labels)
    return found if found.dim() == 1 else found.mean().expand(len(batch.weights))


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
