"""The Pareto front, and what its measurements cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autotune.keys import MetricKey
from autotune.pareto.points import Point, points_of, value_of
from autotune.trial import Trial


def front(trials: Iterable[Trial], keys: Sequence[MetricKey], *, final: bool = False) -> list[Trial]:
    """The non-dominated trials, ordered by the first key, best first.

    First the exact front of the point values, so there is always one where there are candidates; then, of
    points that another one covers (no worse than it by more than epsilon in any key), only the covering one
    stays (Laumanns et al. 2002, additive epsilon-dominance). So every candidate is matched within epsilon by
    a trial of the exact front. `final` uses the values of finalists. Raises `UsageError` without keys.
    """
    points = exact_front(points_of(trials, keys, final=final))
    kept: list[Point] = []
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
    others = points_of(members if among is None else among, keys, final=final)
    result = {}
    for member in points_of(members, keys, final=final):
        numbers = [
            other.trial.number
            for other in others
            if other.trial.number != member.trial.number and tied(member, other, keys, final=final)
        ]
        if numbers:
            result[member.trial.number] = tuple(sorted(numbers))
    return result


def exact_front(points: Sequence[Point]) -> list[Point]:
    """Points that no other dominates; of equal points the one with the lowest trial number."""
    kept: list[Point] = []
    # In lexicographic order a point can only be dominated by one that came before it.
    for point in sorted(points, key=lambda p: (p.costs, p.trial.number)):
        if not any(all(a <= b for a, b in zip(other.costs, point.costs, strict=True)) for other in kept):
            kept.append(point)
    return kept


def _covers(one: Point, other: Point) -> bool:
    """`one` is no worse than `other` by more than epsilon in any key."""
    return all(a <= b + step for a, b, step in zip(one.costs, other.costs, other.steps, strict=True))


def tied(one: Point, other: Point, keys: Sequence[MetricKey], *, final: bool) -> bool:
    for key, step in zip(keys, one.steps, strict=True):
        a, b = value_of(one.trial, key, final), value_of(other.trial, key, final)
        if a is None or b is None:
            return False
        apart = a.high < b.low or b.high < a.low
        if apart and abs(a.value - b.value) > step:
            return False
    return True
