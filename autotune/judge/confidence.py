"""Confidence: how sure a model is of each answer, read off the outputs that are there anyway.

Needs no further inference: what is wanted of a batch is a few numbers per sample, and only these are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.judge.user_code import user_code, user_code_failure
from autotune.workload import Arrays, Confidence

Floats = NDArray[np.float64]

_SUM = 0.2  # a quantised softmax does not add up to 1 any more: this far off it still counts as probabilities
_BELOW = 0.01  # and this far below zero


class ConfidenceReader:
    """Collects the confidence of each sample, batch by batch, and says in the end which output it comes from.

    An output can tell where it has one row of at least two numbers per sample, `[batch, classes]`, or one row per
    step, `[batch, steps, classes]` (the mean over the steps is then the confidence), or one number in 0 to 1 per
    sample, `[batch]` or `[batch, 1]`. Rows that add up to 1 are taken as probabilities, others as logits (softmax).
    Taken is the first output whose largest entry decides the prediction, or else the first with probabilities. There
    is none where the predictions are real numbers (regression) or nothing fits. `given`, the workload's own function,
    goes before all that.
    """

    def __init__(self, count: int, given: Confidence | None = None) -> None:
        self._count, self._given = count, given
        self.logits: str | None = None  # the output that `result` took, where it holds logits
        self._own: list[float] = [0.0] * count
        self._outputs: dict[str, _Output] = {}

    def read(self, outputs: Arrays, indices: Sequence[int]) -> None:
        """What one batch gives, whose samples have these `indices`. Raises `TrialFailure` for the workload's
        function."""
        if self._given is not None:
            for index, value in zip(indices, _call(self._given, outputs, len(indices)), strict=True):
                self._own[index] = value
        for name, array in outputs.items():
            known = self._outputs.setdefault(name, _Output(self._count))
            if known.fits:
                known.add(array, indices)

    def possible_logits(self) -> list[str]:
        """The outputs that may turn out to hold logits."""
        return [name for name, each in self._outputs.items() if each.fits and not each.probabilities]

    def result(self, predictions: Sequence[Any]) -> tuple[float, ...] | None:
        """0 to 1 per sample, None where the outputs do not tell. `predictions` are those of all samples."""
        name = self._choose(predictions)
        if name is not None and not self._outputs[name].probabilities:
            self.logits = name
        if self._given is not None:
            return tuple(self._own)
        return None if name is None else self._outputs[name].confidence()

    def _choose(self, predictions: Sequence[Any]) -> str | None:
        if any(_is_real(prediction) for prediction in predictions):
            return None
        fitting = {name: output for name, output in self._outputs.items() if output.fits}
        deciding = [name for name, output in fitting.items() if output.decides(predictions)]
        certain = [name for name, output in fitting.items() if output.probabilities and not output.single]
        # Logits of a sequence decide the prediction by more than their largest entries (beams, merged repeats).
        steps = [name for name, output in fitting.items() if output.sequence]
        found = [*deciding, *certain, *(steps if len(steps) == 1 else ())]
        return found[0] if found else None


@dataclass
class _Output:
    """What one output says of every sample. `fits` turns false with the first batch that has another form."""

    count: int
    fits: bool = True
    probabilities: bool = True  # as far as seen
    sequence: bool = False
    single: bool = False
    best: list[bytes] = field(default_factory=list)
    of_probabilities: Floats = field(init=False)
    of_logits: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.best = [b""] * self.count
        self.of_probabilities = np.zeros(self.count)
        self.of_logits = np.zeros(self.count)

    def add(self, array: np.ndarray, indices: Sequence[int]) -> None:
        if array.dtype.kind != "f" or array.ndim not in (1, 2, 3) or len(array) != len(indices) or not array.size:
            self.fits = False
            return
        values = array.astype(np.float64)
        if array.ndim == 1 or array.shape[-1] == 1:
            self.single = True
            values = values.reshape(len(indices), -1)
            if values.shape[1] != 1 or values.min() < 0 or values.max() > 1:
                self.fits = False
                return
            values = np.concatenate([1 - values, values], axis=1)
        self.sequence = values.ndim == 3
        rows = values if values.ndim == 3 else values[:, None, :]
        sums = rows.sum(axis=2)
        self.probabilities = self.probabilities and bool(rows.min() >= -_BELOW and np.abs(sums - 1).max() <= _SUM)
        largest = rows.max(axis=2)
        softmax = 1.0 / np.exp(rows - largest[..., None]).sum(axis=2)
        best = rows.argmax(axis=2)
        for place, index in enumerate(indices):
            self.best[index] = best[place].tobytes()
            self.of_logits[index] = softmax[place].mean()
            if self.probabilities:
                self.of_probabilities[index] = (largest[place] / sums[place]).mean()

    def decides(self, predictions: Sequence[Any]) -> bool:
        """True where equal largest entries always go with equal predictions, and there is more than one of these."""
        found: dict[bytes, Any] = {}
        for best, prediction in zip(self.best, predictions, strict=True):
            if found.setdefault(best, prediction) != prediction:
                return False
        return 1 < len(found) < max(2, len(predictions))

    def confidence(self) -> tuple[float, ...]:
        values = self.of_probabilities if self.probabilities else self.of_logits
        return tuple(float(value) for value in np.clip(values, 0.0, 1.0))


def _is_real(prediction: Any) -> bool:
    if isinstance(prediction, list):
        return any(_is_real(item) for item in prediction)
    return isinstance(prediction, float)


def _call(given: Confidence, outputs: Arrays, count: int) -> list[float]:
    with user_code("confidence", "it is given the outputs of one batch by name"):
        values = [float(value) for value in given(outputs)]
    if len(values) != count:
        raise user_code_failure(f"confidence gave {len(values)} numbers for a batch of {count}; give one per sample")
    wrong = next((value for value in values if not 0.0 <= value <= 1.0), None)  # NaN is not in there either
    if wrong is not None:
        raise user_code_failure(f"confidence gave {wrong:g}; it must be in 0 to 1")
    return values
