"""Recovery by training: the compressed graph learns from the original, step by step.

`Formats`, `Settings`, `Progress` and `Checkpoint` can be had without torch, which is only loaded by `recover` itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from autotune.recover.batching import Batch
from autotune.recover.formats import Formats
from autotune.recover.settings import Checkpoint, HardLoss, Progress, Settings, Watch

__all__ = ["Checkpoint", "Formats", "HardLoss", "Progress", "Settings", "Watch", "recover"]


def recover(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    formats: Formats,
    batches: Iterable[Batch],
    validation: Iterable[Batch],
    settings: Settings,
    *,
    watch: Watch | None = None,
    hard_loss: HardLoss | None = None,
    before: int = 0,
) -> Iterator[Checkpoint]:
    """Train the float graph `student` so that, once its `formats` are written, it answers like `teacher`.

    `batches` and `validation` are iterated anew for every epoch (`batching.Batches`). `watch` is called after every
    step. `hard_loss` computes the task's loss where `settings.hard` is not 0; None: cross entropy of a single output of
    logits or probabilities with integer labels. `before` is the number of steps that earlier calls took: a message
    counts them.

    Yields the student as it was given (step 0), then a checkpoint whenever validation has improved.

    Raises `DataError` for operators that cannot be trained through and for samples that lack an input, `UsageError`
    where there are no samples or labels to learn from, `TrialFailure` of kind "nonfinite" and stage "recover" when a
    loss becomes NaN or infinite: the message names the step, and the user's own loss where it was that. What was
    yielded before stays good.
    """
    from autotune.recover.loop import train  # the way to torch

    return train(
        student,
        teacher,
        formats,
        batches,
        validation,
        settings,
        watch=watch,
        hard_loss=hard_loss,
        before=before,
    )
