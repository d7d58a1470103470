"""The volume that a front dominates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autotune.keys import MetricKey
from autotune.pareto.dominance import exact_front
from autotune.pareto.points import cost_of, points_of
from autotune.trial import Trial


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
    corner = tuple(cost_of(key, value) for key, value in zip(keys, reference, strict=True))
    points = {p.costs for p in exact_front(points_of(trials, keys, final=final))}
    return _volume([p for p in points if all(a < b for a, b in zip(p, corner, strict=True))], corner)


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
