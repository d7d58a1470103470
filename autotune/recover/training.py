"""Recovery by training: the compressed graph learns from the original, step by step.

`Settings`, `Progress` and `Checkpoint` can be had without torch, which is only loaded by `recover` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import onnx

from autotune.compress.calibration import Range
from autotune.layers import Layer
from autotune.recover.batching import Batch
from autotune.recover.settings import Checkpoint, Progress, Settings
from autotune.techniques.rounding import Rounding

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "HardLoss", "Progress", "Settings", "recover"]

# Outputs by name and the labels of a batch -> one loss per sample [samples], or their mean.
HardLoss = Callable[[Mapping[str, "torch.Tensor"], tuple[Any, ...]], "torch.Tensor"]
Watch = Callable[[Progress], None]


def recover(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    layers: Iterable[Layer],
    decisions: Mapping[str, str],
    ranges: Mapping[str, Range | tuple[float, float]],
    batches: Iterable[Batch],
    validation: Iterable[Batch],
    settings: Settings,
    *,
    watch: Watch | None = None,
    hard_loss: HardLoss | None = None,
    roundings: Mapping[str, Rounding] = {},
    dialect: object = None,
    before: int = 0,
) -> Iterator[Checkpoint]:
    """Train the float graph `student` so that, once `decisions` are written, it answers like `teacher`.

    `layers` are the student's (`Source.layers`), `decisions` is {layer: choice of `quantize`} and `ranges` holds the
    calibrated ranges of the activations that static choices read. `batches` and `validation` are iterated anew for
    every epoch (`batching.Batches`). `watch` is called after every step. `hard_loss` computes the task's loss where
    `settings.hard` is not 0; None: cross entropy of a single output of logits or probabilities with integer labels.
    `roundings` says how a layer's weight is rounded, where that is not to nearest, and what the layer reads; their bias
    correction is left out, because training finds the biases. `dialect` is what the artifact is written in: one that is
    a `dialects.sixteen.ComputesInSixteen` says how layers round; None and all others round as on the CPU.
    `before` is the number of steps that earlier calls took: a message counts them.

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
        layers,
        decisions,
        ranges,
        batches,
        validation,
        settings,
        watch=watch,
        hard_loss=hard_loss,
        roundings=roundings,
        dialect=dialect,
        before=before,
    )
