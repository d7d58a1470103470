"""A comparison ready to be drawn: one panel per target, a point per model and shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from dashboards.info import units
from hwprofiles.comparison import METRICS, Comparison, Ranking, Row
from hwprofiles.comparison.words import is_short, number, unpriced
from hwprofiles.measurement import Estimate

Standing = Literal["best", "tie", "undecided", "short", "behind", "alone"]
Name = Literal["latency", "cost", "energy", "memory"]

# The title of each chart, and what stands below its axis.
TITLES: dict[Name, str] = {
    "latency": "Time of one inference",
    "cost": "Cost of a million inferences",
    "energy": "Energy of one inference",
    "memory": "Peak memory of the model",
}
_WORDS: dict[str, dict[Standing, str]] = {
    "latency": {"best": "fastest", "tie": "tie", "undecided": "not told apart yet", "short": "not enough data"},
    "cost": {"best": "cheapest", "tie": "tie", "undecided": "not told apart yet", "short": "not enough data"},
    "energy": {"best": "least", "tie": "tie", "undecided": "not told apart yet"},
    "memory": {"best": "least", "tie": "tie", "undecided": ""},
}
_DISTURBED = ("contended", "throttled")  # absolute times of these are too long by an unknown amount
_WIDE = 12.0  # largest / smallest from which an axis is logarithmic


class Point(NamedTuple):
    """One number. `value`, `low` and `high` in the chart's unit; `label` is the number as text, and its standing."""

    model: str
    shape: str
    value: float
    low: float
    high: float
    standing: Standing
    label: str


class Panel(NamedTuple):
    """The points of one target, in the order of the models."""

    target: str
    points: tuple[Point, ...]


class Chart(NamedTuple):
    """What one figure shows. `models` and `shapes` fix the order, so that panels agree."""

    name: Name
    title: str
    unit: str
    models: tuple[str, ...]
    shapes: tuple[str, ...]
    panels: tuple[Panel, ...]

    @property
    def logarithmic(self) -> bool:
        """True where points on a linear axis would lie on top of each other at its foot."""
        values = [point.value for panel in self.panels for point in panel.points]
        return min(values) > 0 and max(values) / min(values) > _WIDE


class Fact(NamedTuple):
    """One row of the table of all numbers; "" is what was not measured."""

    model: str
    target: str
    shape: str
    time: str
    interval: str
    ratio: str
    p90: str
    p99: str
    throughput: str
    cpu: str
    load: str
    first: str
    cold: str
    memory: str
    energy: str
    cost: str
    quality: tuple[str, ...]


def charts(comparison: Comparison) -> tuple[Chart, ...]:
    """Those for which there are numbers: latency first."""
    picks: dict[Name, Callable[[Row, str], Estimate | None]] = {
        "latency": _time,
        "cost": lambda row, shape: row.cost.get(shape),
        "energy": lambda row, shape: _energy(row) if shape == comparison.shapes[0] else None,
        "memory": lambda row, shape: _memory(row) if shape == comparison.shapes[0] else None,
    }
    found = (_chart(comparison, name, pick) for name, pick in picks.items())
    return tuple(chart for chart in found if chart is not None)


def facts(comparison: Comparison) -> tuple[Fact, ...]:
    """Every number of what was measured on hardware, per model, target and shape."""
    return tuple(
        _fact(comparison, row, shape)
        for row in comparison.rows
        if row.ranked
        for shape in comparison.shapes
        if row.shape(shape) is not None
    )


def headline(comparison: Comparison) -> Ranking | None:
    """The ranking that answers most: by cost if there are prices, else over all targets, else on the first one."""
    order = [ranking for ranking in comparison.rankings if ranking.metric == "cost"]
    order += [r for r in comparison.rankings if r.metric == "latency" and r.target is None]
    order += [r for r in comparison.rankings if r.metric == "latency"]
    order += sorted(comparison.rankings, key=lambda ranking: METRICS.index(ranking.metric))
    return order[0] if order else None


def verdict(comparison: Comparison, ranking: Ranking) -> tuple[str, str]:
    """What the headline may claim in a few words, and its tone: good, plain or warn.

    "a clear winner" only where every number behind it was taken undisturbed and nothing was left out of the ranking.
    """
    if ranking.winner is None:
        timed = ranking.metric in ("latency", "cost")
        if timed and any(is_short(side, comparison) for side in ranking.contenders):
            return "not enough data", "warn"
        return ("cannot be told apart yet", "warn") if ranking.against_first("undecided") else ("a tie", "plain")
    if ranking.metric in ("latency", "cost") and _disturbed(comparison, ranking):
        return "ahead, but measurements were disturbed", "warn"
    if ranking.metric == "cost" and unpriced(comparison):
        return "ahead among the targets with a price", "plain"
    across = comparison.ranking("latency", None, ranking.shape)
    if ranking.target is not None and across is not None and across.winner is None:
        return f"ahead on {ranking.target} only", "plain"
    return "a clear winner", "good"


def _disturbed(comparison: Comparison, ranking: Ranking) -> bool:
    records = [comparison.row(side.model, side.target).measurement for side in ranking.order]
    return any(flag in record.quality for record in records if record is not None for flag in _DISTURBED)


def _chart(comparison: Comparison, name: Name, pick: Callable[[Row, str], Estimate | None]) -> Chart | None:
    found = {
        (row.side, shape): estimate
        for row in comparison.rows
        if row.ranked
        for shape in comparison.shapes
        if (estimate := pick(row, shape)) is not None
    }
    if not found:
        return None
    scale, unit = _unit(name, max(estimate.value for estimate in found.values()), comparison.currency)
    panels = []
    for place in comparison.targets:
        points = tuple(
            _point(comparison, name, side.model, place.name, shape, estimate, scale, unit)
            for (side, shape), estimate in found.items()
            if side.target == place.name
        )
        if points:
            panels.append(Panel(place.name, points))
    present = {shape for _, shape in found}
    return Chart(
        name=name,
        title=TITLES[name],
        unit=unit,
        models=tuple(subject.name for subject in comparison.models),
        shapes=tuple(shape for shape in comparison.shapes if shape in present),
        panels=tuple(panels),
    )


def _point(
    comparison: Comparison,
    name: Name,
    model: str,
    target: str,
    shape: str,
    estimate: Estimate,
    scale: float,
    unit: str,
) -> Point:
    ranked_shape = shape if name in ("latency", "cost") else ""
    # Costs are ranked over all targets, everything else on each.
    ranking = comparison.ranking(name, None if name == "cost" else target, ranked_shape)
    standing = _standing(comparison, ranking, model, target)
    word = _WORDS[name].get(standing, "")
    text = f"{number(estimate.value / scale)} {unit}".strip()
    return Point(
        model=model,
        shape=shape,
        value=estimate.value / scale,
        low=estimate.low / scale,
        high=estimate.high / scale,
        standing=standing,
        label=f"{text}, {word}" if word else text,
    )


def _standing(comparison: Comparison, ranking: Ranking | None, model: str, target: str) -> Standing:
    if ranking is None:
        return "alone"
    side = next((side for side in ranking.order if (side.model, side.target) == (model, target)), None)
    if side is None:
        return "alone"
    if side not in ranking.contenders:
        return "behind"
    if len(ranking.contenders) == 1:
        return "best"
    first = ranking.order[0]
    others = [other for other in ranking.contenders if other != first and side in (first, other)]
    verdicts = {ranking.pairing(first, other).verdict for other in others}
    if "undecided" not in verdicts:
        return "tie"
    timed = ranking.metric in ("latency", "cost")
    return "short" if timed and any(is_short(one, comparison) for one in (side, first)) else "undecided"


def _unit(name: Name, largest: float, currency: str) -> tuple[float, str]:
    """(size in SI, name) of the unit in which the largest number is readable."""
    if name == "cost":
        return 1.0, currency
    steps = {
        "latency": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "energy": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")),
        "memory": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    }[name]
    return next((step for step in steps if largest >= step[0]), steps[-1])


def _time(row: Row, shape: str) -> Estimate | None:
    found = row.shape(shape)
    return found.latency.median if found is not None else None


def _energy(row: Row) -> Estimate | None:
    return row.measurement.energy.joules if row.measurement is not None and row.measurement.energy else None


def _memory(row: Row) -> Estimate | None:
    if row.measurement is None or row.measurement.memory is None:
        return None
    peak = float(row.measurement.memory.peak)
    return Estimate(value=peak, low=peak, high=peak)


def _fact(comparison: Comparison, row: Row, shape: str) -> Fact:
    found, record = row.shape(shape), row.measurement
    assert found is not None and record is not None  # `facts` picks only these
    latency, ratio = found.latency, found.ratio
    first = shape == comparison.shapes[0]
    cost = row.cost.get(shape)
    reference = comparison.reference(row.target) == row.model
    return Fact(
        model=row.model,
        target=row.target,
        shape=shape,
        time=units.time(latency.median.value),
        interval=_interval(latency.median),
        ratio=("1" if reference else "") if ratio is None else f"{_factor(ratio.estimate)}, {ratio.pairs} pairs",
        p90=units.time(latency.p90) if latency.p90 is not None else f"needs 64, has {latency.iterations}",
        p99=units.time(latency.p99) if latency.p99 is not None else f"needs 662, has {latency.iterations}",
        throughput=f"{number(latency.throughput)}/s" if latency.throughput is not None else "",
        cpu=units.time(latency.cpu_median),
        load=units.time(latency.load_seconds),
        first=units.time(latency.first_seconds),
        cold=units.time(latency.cold_seconds) if latency.cold_seconds is not None else "",
        memory=units.size(record.memory.peak) if first and record.memory is not None else "",
        energy=_joules(record.energy.joules) if first and record.energy is not None else "",
        cost="" if cost is None else f"{number(cost.value)}{_ends(cost)}",
        quality=record.quality,
    )


def _factor(estimate: Estimate) -> str:
    return f"{number(estimate.value)}×{_ends(estimate)}"


def _interval(estimate: Estimate) -> str:
    """Empty for what was read once: a single number has no interval."""
    return f"{units.time(estimate.low)} to {units.time(estimate.high)}" if estimate.low < estimate.high else ""


def _ends(estimate: Estimate, scale: float = 1.0) -> str:
    if estimate.low == estimate.high:
        return ""
    return f" ({number(estimate.low / scale)} to {number(estimate.high / scale)})"


def _joules(estimate: Estimate) -> str:
    largest = max(abs(estimate.low), abs(estimate.high), math.ulp(0.0))
    scale, unit = next(((s, u) for s, u in ((1.0, "J"), (1e-3, "mJ")) if largest >= s), (1e-6, "µJ"))
    return f"{number(estimate.value / scale)} {unit}{_ends(estimate, scale)}"
