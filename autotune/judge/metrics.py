"""Metrics: any callable (predictions, labels) -> float, larger is better, by name or as an object.

Those that come with the package are in `scoring`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune import plugins
from autotune.errors import TrialFailure, UsageError
from autotune.judge.scoring import accuracy, edit_similarity, f1_macro
from autotune.judge.user_code import user_code, user_code_failure
from autotune.workload import Metric, Task, name_of

__all__ = ["GROUP", "ResolvedMetric", "accuracy", "edit_similarity", "f1_macro", "resolve_metric", "resolve_metrics"]

GROUP = "hw_autotune.metrics"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ResolvedMetric:
    """A metric that was found, and the checks around calling it. `key`: it sees only what is under this key of
    predictions and labels, which are then mappings."""

    name: str
    function: Callable[[Sequence[Any], Sequence[Any]], float]
    key: str | None = None

    def __call__(self, predictions: Sequence[Any], labels: Sequence[Any]) -> float:
        """The metric over all samples. Raises `TrialFailure` when it raises, or gives no finite number."""
        return self.of_parts(self.parts(predictions), self.parts(labels))

    def parts(self, values: Sequence[Any]) -> Sequence[Any]:
        """What the metric sees of predictions or labels. Raises `TrialFailure` where its key is missing."""
        if self.key is None:
            return values
        try:
            return [value[self.key] for value in values]
        except (TypeError, KeyError, IndexError) as error:
            raise user_code_failure(
                f"metric {self.name!r} is of the task {self.key!r}, but a prediction or label has no such key; decode "
                "must give mappings from task to prediction, and labels must be such mappings"
            ) from error

    def of_parts(self, predictions: Sequence[Any], labels: Sequence[Any]) -> float:
        """The metric of what `parts` gave."""
        advice = f"it was given {len(predictions)} predictions, the first one {_short(predictions)}"
        with user_code(f"metric {self.name!r}", advice):
            value = self.function(predictions, labels)
        return self._number(value)

    def score(self, prediction: Any, label: Any) -> float:
        """The metric of one sample: its share of the whole where the metric is decomposable."""
        return self([prediction], [label])

    def scores(self, predictions: Sequence[Any], labels: Sequence[Any]) -> Floats:
        """`[n]` scores of the single samples."""
        pairs = zip(self.parts(predictions), self.parts(labels), strict=True)
        return np.array([self.of_parts([p], [label]) for p, label in pairs])

    def decomposable(self, predictions: Sequence[Any], labels: Sequence[Any]) -> bool:
        """True when the metric over these data is the mean of the metrics of single samples.

        Checked on the data as they are and with the labels moved on by one, so that a metric that only looks
        decomposable while everything is right (F1 without any error) is found out.
        """
        predictions, labels = self.parts(predictions), self.parts(labels)
        moved = [*labels[1:], *labels[:1]]
        with user_code(f"metric {self.name!r}", "it must take lists of predictions and labels"):
            whole = [self.function(predictions, each) for each in (labels, moved)]
        for value, each in zip(whole, (labels, moved), strict=True):
            single = self.singles(predictions, each)
            if single is None or not math.isclose(self._number(value), single.mean(), abs_tol=1e-9):
                return False
        return True

    def singles(self, predictions: Sequence[Any], labels: Sequence[Any]) -> Floats | None:
        """`[n]` scores of what `parts` gave; None where one sample has none (a correlation, for example)."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"), user_code(self.name, ""):
                warnings.simplefilter("ignore")
                values = [float(self.function([p], [y])) for p, y in zip(predictions, labels, strict=True)]
        except TrialFailure:
            return None
        return np.array(values) if np.isfinite(values).all() else None

    def _number(self, value: object) -> float:
        if isinstance(value, int | float | np.number | np.bool_) or (
            isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biuf"
        ):
            number = float(value)
            if math.isfinite(number):
                return number
            raise user_code_failure(f"metric {self.name!r} gave {number}; it must give a finite number")
        raise user_code_failure(
            f"metric {self.name!r} gave {value!r:.60} of type {type(value).__name__}; it must give one number"
        )


def resolve_metric(
    metric: str | Callable[[Sequence[Any], Sequence[Any]], float] | ResolvedMetric,
) -> ResolvedMetric:
    """Find a metric by its registered name, or take a callable as it is.

    Raises `UsageError` for an unknown name and for something that cannot be called.
    """
    if isinstance(metric, ResolvedMetric):
        return metric
    if isinstance(metric, str):
        return ResolvedMetric(metric, plugins.load(GROUP, metric))
    if not callable(metric):
        raise UsageError(f"metric {metric!r} is neither a name nor callable; give (predictions, labels) -> float")
    return ResolvedMetric(name_of(metric), metric)


def resolve_metrics(
    metric: str | Metric | Mapping[str, str | Metric | Task],
) -> tuple[ResolvedMetric, ...]:
    """All metrics of a workload, the first one first, under the names that it gives them.

    Raises `UsageError` as `resolve_metric` does, and for no metric at all.
    """
    if not isinstance(metric, Mapping):
        return (resolve_metric(metric),)
    if not metric:
        raise UsageError("the workload has no metric; name at least one")
    found = []
    for name, each in metric.items():
        task = each if isinstance(each, Task) else None
        inner = resolve_metric(task.metric if task is not None else each)  # type: ignore[arg-type]
        found.append(ResolvedMetric(name, inner.function, task.key if task is not None else None))
    return tuple(found)


def _short(values: Sequence[Any]) -> str:
    return f"{values[0]!r:.60}" if len(values) else "missing"
