"""What lies within limits, and why nothing does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autotune.errors import Infeasible, UsageError, did_you_mean
from autotune.keys import COST_METRICS, MetricKey, format_amount, parse_key
from autotune.pareto.points import cost_of, value_of
from autotune.trial import Trial


def within(
    trials: Iterable[Trial], limits: Mapping[str, float], *, final: bool = False, conservative: bool = False
) -> list[Trial]:
    """The complete trials that meet every limit (metric key -> largest value, or smallest where larger is
    better).

    `conservative` asks it of the bad end of the 95 % interval instead of the value. Raises `UsageError` for a
    limit on a metric that no complete trial has.
    """
    candidates = [trial for trial in trials if trial.state == "complete"]
    keys = limit_keys(limits)
    _refuse_unknown(keys, candidates, final=final)
    return [
        trial
        for trial in candidates
        if all(_excess(trial, key, limit, final, conservative) <= 0 for key, limit in keys.items())
    ]


@dataclass(frozen=True)
class Explanation:
    """Why nothing is feasible. `missing_by` is in the unit of the constraint; `str()` is a sentence for people."""

    constraint: str  # the limit that the nearest trial misses most
    limit: float
    missing_by: float
    nearest: Trial
    value: float  # of the nearest trial
    best: Mapping[str, tuple[float, int]]  # each constraint -> best value seen, by which trial
    unreachable: tuple[str, ...]  # constraints that no trial meets even alone

    def __str__(self) -> str:
        key = parse_key(self.constraint)
        missing, limit, value = (format_amount(x, key) for x in (self.missing_by, self.limit, self.value))
        return (
            f"nothing is within the limits: {self.cause}; nearest is trial {self.nearest.number} with {key} {value}, "
            f"which misses {limit} by {missing}"
        )

    @property
    def cause(self) -> str:
        """Whether a limit cannot be met at all, or only not together with the others."""
        if self.unreachable:
            return f"no trial reaches {' nor '.join(self.unreachable)}"
        return "each limit is met by some trial, but never all at once"


def explain_infeasible(
    trials: Iterable[Trial], limits: Mapping[str, float], *, final: bool = False, conservative: bool = False
) -> Explanation:
    """Which constraint binds, by how much, and the nearest trial (smallest largest relative violation).

    Raises `Infeasible` when there is no complete trial to be near, `ValueError` when some trial is feasible.
    """
    keys = limit_keys(limits)
    candidates = [t for t in trials if t.state == "complete" and all(value_of(t, k, final) for k in keys)]
    if not candidates or not keys:
        wanted = f" with {', '.join(limits)}" if limits else ""
        raise Infeasible(f"there is no complete trial{wanted} yet; run more trials")

    def violations(trial: Trial) -> list[tuple[float, MetricKey]]:
        excesses = [(_excess(trial, key, limit, final, conservative), key, limit) for key, limit in keys.items()]
        return [(excess / _limit_scale(key, limit), key) for excess, key, limit in excesses]

    ranked = sorted(candidates, key=lambda t: (sorted((v for v, _ in violations(t)), reverse=True), t.number))
    worst, binding = max(violations(ranked[0]), key=lambda pair: pair[0])
    if worst <= 0:
        raise ValueError(f"trial {ranked[0].number} is feasible; there is nothing to explain")
    return Explanation(
        constraint=str(binding),
        limit=keys[binding],
        missing_by=_excess(ranked[0], binding, keys[binding], final, conservative),
        nearest=ranked[0],
        value=_bound(ranked[0], binding, final, conservative),
        best={str(key): _best_seen(candidates, key, final, conservative) for key in keys},
        unreachable=tuple(
            str(key)
            for key, limit in keys.items()
            if all(_excess(trial, key, limit, final, conservative) > 0 for trial in candidates)
        ),
    )


def limit_keys(limits: Mapping[str, float]) -> dict[MetricKey, float]:
    return {parse_key(text): limit for text, limit in limits.items()}


def _refuse_unknown(keys: Iterable[MetricKey], candidates: Sequence[Trial], *, final: bool) -> None:
    known = {name for trial in candidates for name in (trial.final if final else trial.metrics)}
    for key in keys:
        if known and str(key) not in known:
            raise UsageError(f"no trial has the metric {str(key)!r}; {did_you_mean(str(key), known)}")


def _bound(trial: Trial, key: MetricKey, final: bool, conservative: bool) -> float:
    """The number that has to meet a limit; the worst possible one where the trial lacks the metric."""
    value = value_of(trial, key, final)
    if value is None:
        return math.inf if key.smaller_is_better else -math.inf
    if not conservative:
        return value.value
    return value.high if key.smaller_is_better else value.low


def _excess(trial: Trial, key: MetricKey, limit: float, final: bool, conservative: bool) -> float:
    """By how much the limit is missed, in the key's unit; zero or less: it is met."""
    return cost_of(key, _bound(trial, key, final, conservative)) - cost_of(key, limit)


def _limit_scale(key: MetricKey, limit: float) -> float:
    """Makes violations of unlike limits comparable: relative to the limit, judged ones to at least one
    percent.
    """
    return max(abs(limit), 1e-12 if key.name in COST_METRICS else 0.01)


def _best_seen(candidates: Sequence[Trial], key: MetricKey, final: bool, conservative: bool) -> tuple[float, int]:
    bounds = [(_bound(trial, key, final, conservative), trial.number) for trial in candidates]
    return min(bounds, key=lambda pair: (cost_of(key, pair[0]), pair[1]))
