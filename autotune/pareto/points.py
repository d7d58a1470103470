"""Trials as points: the values of some keys as costs, and the differences that still count as equal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from autotune.errors import UsageError
from autotune.keys import COST_METRICS, MetricKey
from autotune.trial import Trial, Value

# Differences that nobody would choose by. Relative for costs; absolute (a fraction of 1) for what is judged.
RELATIVE_EPSILON = {"size_bytes": 0.005}
COST_EPSILON = 0.01
JUDGED_EPSILON = 0.0005


class Point(NamedTuple):
    trial: Trial
    costs: tuple[float, ...]  # one per key, smaller is better
    steps: tuple[float, ...]  # the resolution of each
    balance: float  # the sum of the costs, each counted in its own resolution


def value_of(trial: Trial, key: MetricKey, final: bool) -> Value | None:
    found = (trial.final if final else trial.metrics).get(str(key))
    return found if found is not None and math.isfinite(found.value) else None


def cost_of(key: MetricKey, value: float) -> float:
    return value if key.smaller_is_better else -value


def epsilon(key: MetricKey, value: float) -> float:
    """The difference from `value` that still counts as equal, in the key's unit."""
    if key.name in COST_METRICS:
        return abs(value) * RELATIVE_EPSILON.get(key.name, COST_EPSILON)
    return JUDGED_EPSILON


def points_of(trials: Iterable[Trial], keys: Sequence[MetricKey], *, final: bool) -> list[Point]:
    if not keys:
        raise UsageError("a front needs at least one metric key, e.g. size_bytes")
    points = []
    for trial in trials:
        values = [value_of(trial, key, final) for key in keys]
        found = [value.value for value in values if value is not None]
        if trial.state == "complete" and len(found) == len(keys):
            costs = tuple(cost_of(key, v) for key, v in zip(keys, found, strict=True))
            steps = tuple(epsilon(key, v) for key, v in zip(keys, found, strict=True))
            balance = sum(_in_steps(key, v) for key, v in zip(keys, found, strict=True))
            points.append(Point(trial, costs, steps, balance))
    return points


def _in_steps(key: MetricKey, value: float) -> float:
    """How many epsilons a value is away from best; costs by their logarithm, as their epsilon is relative."""
    if key.name not in COST_METRICS:
        return cost_of(key, value) / JUDGED_EPSILON
    return math.log(max(value, 1e-300)) / RELATIVE_EPSILON.get(key.name, COST_EPSILON)
