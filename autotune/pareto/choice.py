"""The one trial to ship."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from autotune.errors import Infeasible
from autotune.keys import COST_METRICS, MetricKey, parse_key
from autotune.pareto.dominance import front
from autotune.pareto.limits import explain_infeasible, limit_keys, within
from autotune.pareto.points import COST_EPSILON, Point, cost_of, points_of, value_of
from autotune.trial import Trial

# Several views of one cost share its weight.
_KINDS = {"latency_p90": "latency_p50", "latency_ratio": "latency_p50", "download_bytes": "size_bytes"}


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
    one weight (targets count equally), and so do those of any other cost, and the sizes of file and download.
    `keys` are the study's objectives, of which the costs are used; none means size and the latency ratios.
    Among trials within 1 % of the cheapest the one with the smallest `drop/worst` wins. Without a limit on what
    is judged the cheapest trial would be the most damaged one: then the knee of the front wins (least distance
    from the ideal point, each key scaled to its range on the front).

    Raises `Infeasible`, saying which limit binds and the nearest trial, when there is none.
    """
    known = list(trials)
    feasible = within(known, limits, final=final, conservative=conservative)
    if not feasible:
        raise Infeasible(str(explain_infeasible(known, limits, final=final, conservative=conservative)))
    costs = _cost_keys(feasible, keys, final=final)
    judged = [key for key in keys if key.name not in COST_METRICS] or [MetricKey("drop", "worst")]
    if all(key.name in COST_METRICS for key in limit_keys(limits)):
        members = front(feasible, [*costs, *judged], final=final)
        if members:
            return _knee(members, [*costs, *judged], final=final)
    points = points_of(feasible, costs, final=final)
    if not points:
        raise Infeasible(f"no trial within the limits has {', '.join(map(str, costs))}; run more trials")
    scores = {point.trial.number: _log_cost(point, costs) for point in points}
    cheapest = min(scores.values())
    near = [point.trial for point in points if scores[point.trial.number] <= cheapest + math.log1p(COST_EPSILON)]
    return min(near, key=lambda t: (_least(t, judged[0], final), scores[t.number], t.number))


def _cost_keys(trials: Sequence[Trial], keys: Sequence[MetricKey], *, final: bool) -> list[MetricKey]:
    costs = [key for key in keys if key.name in COST_METRICS]
    if costs:
        return costs
    known = {parse_key(text) for trial in trials for text in (trial.final if final else trial.metrics)}
    speed = sorted(key for key in known if key.name == "latency_ratio")
    return [MetricKey("size_bytes"), *speed]


def _log_cost(point: Point, keys: Sequence[MetricKey]) -> float:
    """Mean of log costs per kind of cost. The baseline's own cost is a constant here, so it need not be
    known.
    """
    kinds: dict[str, list[float]] = {}
    for key, cost in zip(keys, point.costs, strict=True):
        kind = _KINDS.get(key.name, key.name)
        kinds.setdefault(kind, []).append(math.log(cost) if cost > 0 else -math.inf)
    return sum(sum(logs) / len(logs) for logs in kinds.values()) / len(kinds)


def _knee(members: Sequence[Trial], keys: Sequence[MetricKey], *, final: bool) -> Trial:
    points = points_of(members, keys, final=final)
    columns = list(zip(*(point.costs for point in points), strict=True))
    ranges = [(min(column), max(column) - min(column) or 1.0) for column in columns]

    def distance(point: Point) -> float:
        return math.hypot(*((c - low) / width for c, (low, width) in zip(point.costs, ranges, strict=True)))

    return min(points, key=lambda point: (distance(point), point.trial.number)).trial


def _least(trial: Trial, key: MetricKey, final: bool) -> float:
    value = value_of(trial, key, final)
    return math.inf if value is None else cost_of(key, value.value)
