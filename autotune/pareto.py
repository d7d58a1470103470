"""The Pareto front, and choosing from it.

Everything works on the point values of complete trials; a trial without one of the keys, or with a value that
is not finite, is not a candidate. Two values of a key that differ by no more than its resolution count as
equal (`epsilon`), so that measuring noise cannot flood the front with copies of one trade-off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autotune.errors import Infeasible, UsageError, did_you_mean
from autotune.keys import COST_METRICS, MetricKey, parse_key
from autotune.trial import Trial, Value

# Differences that nobody would choose by. Relative for costs; absolute (a fraction of 1) for what is judged.
RELATIVE_EPSILON = {"size_bytes": 0.005}
COST_EPSILON = 0.01
JUDGED_EPSILON = 0.0005

_SPEED = ("latency_p50", "latency_p90", "latency_ratio")  # three views of one cost


class _Point(NamedTuple):
    trial: Trial
    costs: tuple[float, ...]  # one per key, smaller is better
    steps: tuple[float, ...]  # the resolution of each
    balance: float  # the sum of the costs, each counted in its own resolution


def front(trials: Iterable[Trial], keys: Sequence[MetricKey], *, final: bool = False) -> list[Trial]:
    """The non-dominated trials, ordered by the first key, best first.

    First the exact front of the point values, so there is always one where there are candidates; then, of
    points that another one covers (no worse than it by more than epsilon in any key), only the covering one
    stays (Laumanns et al. 2002, additive epsilon-dominance). So every candidate is matched within epsilon by
    a trial of the exact front. `final` uses the values of finalists. Raises `UsageError` without keys.
    """
    points = _exact_front(_points(trials, keys, final=final))
    kept: list[_Point] = []
    # The most balanced points first: they are the ones that should stand for their neighbours.
    for point in sorted(points, key=lambda p: (p.balance, p.trial.number)):
        if not any(_covers(other, point) for other in kept):
            kept.append(point)
    return [point.trial for point in sorted(kept, key=lambda p: (p.costs, p.trial.number))]


def ties(
    members: Sequence[Trial],
    keys: Sequence[MetricKey],
    *,
    among: Iterable[Trial] | None = None,
    final: bool = False,
) -> dict[int, tuple[int, ...]]:
    """For each member the numbers of the trials that the measurements cannot tell from it.

    Two trials tie when in every key their 95 % intervals overlap or their values differ by at most epsilon.
    `among` are the trials to look at; by default the members themselves. Members without a tie are left out.
    """
    others = _points(members if among is None else among, keys, final=final)
    result = {}
    for member in _points(members, keys, final=final):
        numbers = [
            other.trial.number
            for other in others
            if other.trial.number != member.trial.number and _tied(member, other, keys, final=final)
        ]
        if numbers:
            result[member.trial.number] = tuple(sorted(numbers))
    return result


def within(
    trials: Iterable[Trial], limits: Mapping[str, float], *, final: bool = False, conservative: bool = False
) -> list[Trial]:
    """The complete trials that meet every limit (metric key -> largest value, or smallest where larger is
    better).

    `conservative` asks it of the bad end of the 95 % interval instead of the value. Raises `UsageError` for a
    limit on a metric that no complete trial has.
    """
    candidates = [trial for trial in trials if trial.state == "complete"]
    keys = _limit_keys(limits)
    _refuse_unknown(keys, candidates, final=final)
    return [
        trial
        for trial in candidates
        if all(_excess(trial, key, limit, final, conservative) <= 0 for key, limit in keys.items())
    ]


@dataclass(frozen=True)
class Explanation:
    """Why nothing is feasible. `missing_by` is in the unit of the constraint; `str()` is one sentence."""

    constraint: str  # the limit that the nearest trial misses most
    limit: float
    missing_by: float
    nearest: Trial
    value: float  # of the nearest trial
    best: Mapping[str, tuple[float, int]]  # each constraint -> best value seen, by which trial
    unreachable: tuple[str, ...]  # constraints that no trial meets even alone

    def __str__(self) -> str:
        seen = ", ".join(f"{key} {value:.6g} (trial {number})" for key, (value, number) in self.best.items())
        cause = (
            f"no trial reaches {' nor '.join(self.unreachable)}"
            if self.unreachable
            else "each limit is reached, but never all at once"
        )
        return (
            f"nothing meets the limits: {cause}; nearest is trial {self.nearest.number}, which misses "
            f"{self.constraint} {self.limit:.6g} by {self.missing_by:.6g} (it has {self.value:.6g}); "
            f"best seen: {seen}"
        )


def explain_infeasible(
    trials: Iterable[Trial], limits: Mapping[str, float], *, final: bool = False, conservative: bool = False
) -> Explanation:
    """Which constraint binds, by how much, and the nearest trial (smallest largest relative violation).

    Raises `Infeasible` when there is no complete trial to be near, `ValueError` when some trial is feasible.
    """
    keys = _limit_keys(limits)
    candidates = [t for t in trials if t.state == "complete" and all(_value(t, k, final) for k in keys)]
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


def best(
    trials: Iterable[Trial],
    limits: Mapping[str, float],
    keys: Sequence[MetricKey] = (),
    *,
    final: bool = False,
    conservative: bool = False,
) -> Trial:
    """The one to ship: the cheapest trial within the limits.

    Cheapest is the smallest geometric mean of the costs relative to the baseline; several latency keys share
    one weight (targets count equally), and so do those of any other cost. `keys` are the study's objectives,
    of which the costs are used; none means size and the latency ratios. Among trials within 1 % of the
    cheapest the one with the smallest `drop/worst` wins. Without a limit on what is judged the cheapest trial
    would be the most damaged one: then the knee of the front wins (least distance from the ideal point, each
    key scaled to its range on the front).

    Raises `Infeasible`, saying which limit binds and the nearest trial, when there is none.
    """
    known = list(trials)
    feasible = within(known, limits, final=final, conservative=conservative)
    if not feasible:
        raise Infeasible(str(explain_infeasible(known, limits, final=final, conservative=conservative)))
    costs = _cost_keys(feasible, keys, final=final)
    judged = [key for key in keys if key.name not in COST_METRICS] or [MetricKey("drop", "worst")]
    if all(key.name in COST_METRICS for key in _limit_keys(limits)):
        members = front(feasible, [*costs, *judged], final=final)
        if members:
            return _knee(members, [*costs, *judged], final=final)
    points = _points(feasible, costs, final=final)
    if not points:
        raise Infeasible(f"no trial within the limits has {', '.join(map(str, costs))}; run more trials")
    scores = {point.trial.number: _log_cost(point, costs) for point in points}
    cheapest = min(scores.values())
    near = [point.trial for point in points if scores[point.trial.number] <= cheapest + math.log1p(COST_EPSILON)]
    return min(near, key=lambda t: (_least(t, judged[0], final), scores[t.number], t.number))


def hypervolume(
    trials: Iterable[Trial], keys: Sequence[MetricKey], reference: Sequence[float], *, final: bool = False
) -> float:
    """The volume between the front and a reference point that is worse than it, in the product of the keys'
    units.

    Exact, by slicing along the last key; made for two to four keys and fronts of up to some hundred points.
    `reference` has one value per key in the key's own direction. Raises `ValueError` when the lengths differ.
    """
    if len(reference) != len(keys):
        raise ValueError(f"{len(keys)} keys need {len(keys)} reference values, not {len(reference)}")
    corner = tuple(_cost(key, value) for key, value in zip(keys, reference, strict=True))
    points = {p.costs for p in _exact_front(_points(trials, keys, final=final))}
    return _volume([p for p in points if all(a < b for a, b in zip(p, corner, strict=True))], corner)


# ---- values


def _value(trial: Trial, key: MetricKey, final: bool) -> Value | None:
    found = (trial.final if final else trial.metrics).get(str(key))
    return found if found is not None and math.isfinite(found.value) else None


def _cost(key: MetricKey, value: float) -> float:
    return value if key.smaller_is_better else -value


def epsilon(key: MetricKey, value: float) -> float:
    """The difference from `value` that still counts as equal, in the key's unit."""
    if key.name in COST_METRICS:
        return abs(value) * RELATIVE_EPSILON.get(key.name, COST_EPSILON)
    return JUDGED_EPSILON


def _points(trials: Iterable[Trial], keys: Sequence[MetricKey], *, final: bool) -> list[_Point]:
    if not keys:
        raise UsageError("a front needs at least one metric key, e.g. size_bytes")
    points = []
    for trial in trials:
        values = [_value(trial, key, final) for key in keys]
        found = [value.value for value in values if value is not None]
        if trial.state == "complete" and len(found) == len(keys):
            costs = tuple(_cost(key, v) for key, v in zip(keys, found, strict=True))
            steps = tuple(epsilon(key, v) for key, v in zip(keys, found, strict=True))
            balance = sum(_in_steps(key, v) for key, v in zip(keys, found, strict=True))
            points.append(_Point(trial, costs, steps, balance))
    return points


def _in_steps(key: MetricKey, value: float) -> float:
    """How many epsilons a value is away from best; costs by their logarithm, as their epsilon is relative."""
    if key.name not in COST_METRICS:
        return _cost(key, value) / JUDGED_EPSILON
    return math.log(max(value, 1e-300)) / RELATIVE_EPSILON.get(key.name, COST_EPSILON)


# ---- dominance


def _exact_front(points: Sequence[_Point]) -> list[_Point]:
    """Points that no other dominates; of equal points the one with the lowest trial number."""
    kept: list[_Point] = []
    # In lexicographic order a point can only be dominated by one that came before it.
    for point in sorted(points, key=lambda p: (p.costs, p.trial.number)):
        if not any(all(a <= b for a, b in zip(other.costs, point.costs, strict=True)) for other in kept):
            kept.append(point)
    return kept


def _covers(one: _Point, other: _Point) -> bool:
    """`one` is no worse than `other` by more than epsilon in any key."""
    return all(a <= b + step for a, b, step in zip(one.costs, other.costs, other.steps, strict=True))


def _tied(one: _Point, other: _Point, keys: Sequence[MetricKey], *, final: bool) -> bool:
    for key, step in zip(keys, one.steps, strict=True):
        a, b = _value(one.trial, key, final), _value(other.trial, key, final)
        if a is None or b is None:
            return False
        apart = a.high < b.low or b.high < a.low
        if apart and abs(a.value - b.value) > step:
            return False
    return True


# ---- limits


def _limit_keys(limits: Mapping[str, float]) -> dict[MetricKey, float]:
    return {parse_key(text): limit for text, limit in limits.items()}


def _refuse_unknown(keys: Iterable[MetricKey], candidates: Sequence[Trial], *, final: bool) -> None:
    known = {name for trial in candidates for name in (trial.final if final else trial.metrics)}
    for key in keys:
        if known and str(key) not in known:
            raise UsageError(f"no trial has the metric {str(key)!r}; {did_you_mean(str(key), known)}")


def _bound(trial: Trial, key: MetricKey, final: bool, conservative: bool) -> float:
    """The number that has to meet a limit; the worst possible one where the trial lacks the metric."""
    value = _value(trial, key, final)
    if value is None:
        return math.inf if key.smaller_is_better else -math.inf
    if not conservative:
        return value.value
    return value.high if key.smaller_is_better else value.low


def _excess(trial: Trial, key: MetricKey, limit: float, final: bool, conservative: bool) -> float:
    """By how much the limit is missed, in the key's unit; zero or less: it is met."""
    return _cost(key, _bound(trial, key, final, conservative)) - _cost(key, limit)


def _limit_scale(key: MetricKey, limit: float) -> float:
    """Makes violations of unlike limits comparable: relative to the limit, judged ones to at least one
    percent.
    """
    return max(abs(limit), 1e-12 if key.name in COST_METRICS else 0.01)


def _best_seen(candidates: Sequence[Trial], key: MetricKey, final: bool, conservative: bool) -> tuple[float, int]:
    bounds = [(_bound(trial, key, final, conservative), trial.number) for trial in candidates]
    return min(bounds, key=lambda pair: (_cost(key, pair[0]), pair[1]))


# ---- choosing


def _cost_keys(trials: Sequence[Trial], keys: Sequence[MetricKey], *, final: bool) -> list[MetricKey]:
    costs = [key for key in keys if key.name in COST_METRICS]
    if costs:
        return costs
    known = {parse_key(text) for trial in trials for text in (trial.final if final else trial.metrics)}
    speed = sorted(key for key in known if key.name == "latency_ratio")
    return [MetricKey("size_bytes"), *speed]


def _log_cost(point: _Point, keys: Sequence[MetricKey]) -> float:
    """Mean of log costs per kind of cost. The baseline's own cost is a constant here, so it need not be
    known.
    """
    kinds: dict[str, list[float]] = {}
    for key, cost in zip(keys, point.costs, strict=True):
        kind = "latency" if key.name in _SPEED else key.name
        kinds.setdefault(kind, []).append(math.log(cost) if cost > 0 else -math.inf)
    return sum(sum(logs) / len(logs) for logs in kinds.values()) / len(kinds)


def _knee(members: Sequence[Trial], keys: Sequence[MetricKey], *, final: bool) -> Trial:
    points = _points(members, keys, final=final)
    columns = list(zip(*(point.costs for point in points), strict=True))
    ranges = [(min(column), max(column) - min(column) or 1.0) for column in columns]

    def distance(point: _Point) -> float:
        return math.hypot(*((c - low) / width for c, (low, width) in zip(point.costs, ranges, strict=True)))

    return min(points, key=lambda point: (distance(point), point.trial.number)).trial


def _least(trial: Trial, key: MetricKey, final: bool) -> float:
    value = _value(trial, key, final)
    return math.inf if value is None else _cost(key, value.value)


# ---- volume


def _volume(points: Sequence[tuple[float, ...]], corner: tuple[float, ...]) -> float:
    """Volume dominated by `points` up to `corner`, all costs; every point is better than the corner."""
    if not points:
        return 0.0
    if len(corner) == 1:
        return corner[0] - min(point[0] for point in points)
    ordered = sorted(points, key=lambda point: point[-1])
    total = 0.0
    active: list[tuple[float, ...]] = []
    for index, point in enumerate(ordered):
        shadow = point[:-1]
        if not any(all(a <= b for a, b in zip(other, shadow, strict=True)) for other in active):
            active = [o for o in active if not all(a <= b for a, b in zip(shadow, o, strict=True))]
            active.append(shadow)
        top = ordered[index + 1][-1] if index + 1 < len(ordered) else corner[-1]
        if top > point[-1]:
            total += (top - point[-1]) * _volume(active, corner[:-1])
    return total
