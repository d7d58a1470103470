"""What recovery is told and what it hands back. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autotune.errors import UsageError

if TYPE_CHECKING:
    import torch

# Outputs by name and the labels of a batch -> one loss per sample [samples], or their mean.
HardLoss = Callable[[Mapping[str, "torch.Tensor"], tuple[Any, ...]], "torch.Tensor"]
Watch = Callable[["Progress"], None]
Trains = Literal["all", "norms-and-biases"]
Compare = Literal["auto", "distributions", "numbers"]


@dataclass(frozen=True)
class Settings:
    """How to train. Ends after `steps` or `minutes`, whichever is first, or when validation no longer improves.

    `relative_rate` is the share of itself (of its root mean square) that a tensor moves by in a step, at most about;
    None: the best of some is found by short tries (`schedule.RateTest`). `learning_rate` takes its place with one
    absolute rate for all, that of plain Adam.

    `batch` is the number of samples per step: batches that hold fewer are added up until there are as many. `soft`,
    `hard` and `features` weigh the three losses: distillation from the original at `temperature` (Hinton et al. 2015),
    the task's own loss on labels, and the squared error of the inputs of layers that both graphs name alike (FitNets,
    Romero et al. 2015). `lora_rank` above 0 trains low-rank adapters (Hu et al. 2021) of the weights of products and of
    1x1 convolutions over the frozen, rounded weights (`frozen`). `train` "norms-and-biases" trains vectors only.
    `keep_zeros` holds the zeros of layers of which more than 30 % are zero. After every `evaluate_every` steps
    validation is looked at; after `patience` looks in a row without a gain of `least_gain` (a share of the loss)
    training stops; after half of them, and wherever the loss is twice the best, it goes back to the best weights and
    on at a lower learning rate.
    `sample_weights`: whether the weights that batches carry count. `compare` says what the outputs are, where that
    cannot be told from the graph: rows of logits or probabilities, or plain numbers such as embeddings.
    """

    steps: int = 1000
    minutes: float = 10.0
    relative_rate: float | None = None
    learning_rate: float | None = None
    batch: int = 32
    temperature: float = 2.0
    soft: float = 1.0
    hard: float = 0.0
    features: float = 0.0
    lora_rank: int = 0
    train: Trains = "all"
    keep_zeros: bool = True
    evaluate_every: int = 50
    patience: int = 6
    least_gain: float = 0.005
    seed: int = 0
    sample_weights: bool = True
    compare: Compare = "auto"

    def __post_init__(self) -> None:
        """Raises `UsageError` for a value that is out of range."""
        for name in ("steps", "minutes", "batch", "temperature", "evaluate_every", "patience"):
            if not getattr(self, name) > 0:
                raise UsageError(f"recover: {name} is {getattr(self, name)}; it must be above 0")
        for name in ("relative_rate", "learning_rate"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise UsageError(f"recover: {name} is {given}; it must be above 0")
        if self.relative_rate is not None and self.learning_rate is not None:
            raise UsageError("recover: relative_rate and learning_rate exclude each other; drop one")
        for name in ("soft", "hard", "features", "lora_rank", "least_gain"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"recover: {name} is {getattr(self, name)}; it must not be negative")
        if self.soft == self.hard == self.features == 0:
            raise UsageError("recover: soft, hard and features are all 0, so there is nothing to learn from; set one")
        if self.train not in ("all", "norms-and-biases"):
            raise UsageError(f"recover: train is {self.train!r}; it must be 'all' or 'norms-and-biases'")
        if self.compare not in ("auto", "distributions", "numbers"):
            raise UsageError(f"recover: compare is {self.compare!r}; it must be 'auto', 'distributions' or 'numbers'")
        if self.lora_rank and self.train != "all":
            raise UsageError("recover: lora_rank and train = 'norms-and-biases' exclude each other; drop one")


@dataclass(frozen=True)
class Progress:
    """One step that was taken. `loss` is that of training, `validation` is None where it was not looked at."""

    step: int
    seconds: float
    loss: float
    validation: float | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The student at its best so far.

    `step` 0 is the student as it was given. `loss` is the mean training loss since the last look (NaN at step 0),
    `validation` the mean distillation loss of the validation samples, with the fake quantisers in place. `tensors` are
    the constants that training changes, float32, by their names and in their shapes in the student's graph; adapters
    are merged. The layers' weights are not rounded: the dialect does that when it writes the artifact. What
    adapters lie over is rounded already, so with them it is what the dialect would make of the student.
    """

    step: int
    seconds: float
    loss: float
    validation: float
    tensors: Mapping[str, np.ndarray]
