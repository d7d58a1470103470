"""Scores: what a metric says about single samples of both models, and how the two are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.errors import TrialFailure
from autotune.judge import intervals
from autotune.judge.intervals import Flags, Floats, Indices, Paired
from autotune.judge.metrics import ResolvedMetric, accuracy
from autotune.judge.predictions import Predictions
from autotune.judge.user_code import user_code_failure
from autotune.slices import Mask


@dataclass(frozen=True)
class Scored:
    """Per-sample scores `[n]` of both models, and how the two are compared over the samples at some
    indices. `per_sample`: the metric is the mean of these scores. `right` says which samples each gets right; None
    where scores are no matter of right or wrong."""

    original: Floats
    candidate: Floats
    compare: Callable[[Indices], Paired]
    right: tuple[Flags, Flags] | None = None
    per_sample: bool = False

    @classmethod
    def of_samples(cls, original: Floats, candidate: Floats) -> Scored:
        """For a metric that is the mean of these scores: right or wrong (0.0 and 1.0 only), or graded."""
        both = np.concatenate([original, candidate])
        method = intervals.binary if bool(np.isin(both, (0.0, 1.0)).all()) else intervals.graded
        right = (original == 1.0, candidate == 1.0) if both.min() >= 0 and both.max() == 1.0 else None
        return cls(original, candidate, lambda rows: method(original[rows], candidate[rows]), right, True)

    def flips(self, mask: Mask) -> tuple[int, int]:
        """(worse, better): samples on which the candidate's score is lower and higher."""
        change = (self.candidate - self.original)[mask]
        return int(np.sum(change < 0)), int(np.sum(change > 0))


def score(metric: ResolvedMetric, labels: Sequence[Any], original: Predictions, candidate: Predictions) -> Scored:
    """Both models under one metric. Raises `TrialFailure` when the metric fails."""
    before, after = original.predictions, candidate.predictions
    if metric.decomposable(before, labels):
        return Scored.of_samples(metric.scores(before, labels), metric.scores(after, labels))
    truth, first, second = metric.parts(labels), metric.parts(before), metric.parts(after)
    differs = np.array([not same(p, q) for p, q in zip(first, second, strict=True)])

    def compare(rows: Indices) -> Paired:
        def both(drawn: Indices, swapped: Flags) -> tuple[float, float] | None:
            picked = rows[drawn].tolist()
            labelled, one, other = ([values[i] for i in picked] for values in (truth, first, second))
            for at in np.flatnonzero(swapped).tolist():
                one[at], other[at] = other[at], one[at]
            try:
                return metric.of_parts(one, labelled), metric.of_parts(other, labelled)
            except TrialFailure:  # a resample on which the metric has no value: one class only, a constant
                return None

        for values in (first, second):  # the samples themselves: here a failure is one
            metric.of_parts([values[i] for i in rows], [truth[i] for i in rows])
        try:
            return intervals.whole(both, np.flatnonzero(differs[rows]), len(rows))
        except ValueError as error:
            raise user_code_failure(f"metric {metric.name!r}: {error}; judge it on larger slices") from error

    old, new = _closeness(metric, first, truth), _closeness(metric, second, truth)
    known = bool(np.isin(np.concatenate([old, new]), (0.0, 1.0)).all())
    return Scored(old, new, compare, (old == 1.0, new == 1.0) if known else None)


def same(one: Any, other: Any) -> bool:
    """Equality of two predictions, whatever they are."""
    return bool(accuracy([one], [other]))


def _closeness(metric: ResolvedMetric, predictions: Sequence[Any], labels: Sequence[Any]) -> Floats:
    """A score per sample where the metric is no mean of such: minus the distance of real numbers; of lists (of boxes)
    the metric of that sample alone, where it has a value; else right or wrong."""
    pairs = list(zip(predictions, labels, strict=True))
    if any(isinstance(p, float) for p in predictions):
        return np.array([-abs(float(p) - float(label)) for p, label in pairs])
    return np.array([_single(metric, p, label) for p, label in pairs])


def _single(metric: ResolvedMetric, prediction: Any, label: Any) -> float:
    if isinstance(prediction, list) and isinstance(label, list) and label:
        try:
            return metric.of_parts([prediction], [label])
        except TrialFailure:  # it has no value for one sample
            pass
    return accuracy([prediction], [label])
