"""Who may be called better than whom: ratios with intervals from what was measured, and ties called ties.

Two models on one target were both timed in turns with the same third one, or one of them is that one. Their ratio is
the quotient of their ratios to it, in which the machine's drift has cancelled out. Its interval comes from the two
intervals (each a t interval over openings) by the method of variance estimates recovery (Zou & Donner 2008), which
needs no common variance and keeps the skew of either.

Numbers of two targets cannot be paired. Their interval covers the noise of each, not what moves a machine from one
day to the next, so a difference must be larger before it is called one.

A tie is a claim as well: that the difference, with its whole interval, is too small to matter (two one-sided tests). An
interval that reaches beyond that and does not exclude zero says that too little is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from hwprofiles.comparison.records import Metric, Pairing, Ranking, Row, Side, Subject, Verdict
from hwprofiles.measurement import Estimate, Latency
from hwprofiles.openings import LEAST_PAIRS

Log = tuple[float, float, float]  # value, low, high of a logarithm

# The smallest relative difference that is one. Paired time: what two openings of the same model may differ by.
# Across targets: what the same model may differ by from one day to the next. Memory: what the allocator rounds to, and
# what the same process may differ by from start to start.
PAIRED, UNPAIRED, MEMORY, SIZE = 0.01, 0.03, 0.02, 0.005
MEMORY_BYTES = 2_000_000
_MEMORY_FLOOR = 1 << 20  # bytes; less than the resolution of a process's peak
_SLICES = 6  # of rest and work in turn, which the interval of an energy rests on
LARGEST_NEED = 100_000  # pairs; more is no advice


def rankings(subjects: Sequence[Subject], rows: Sequence[Row], shapes: Sequence[str]) -> tuple[Ranking, ...]:
    """Everything that can be ranked. Rows without numbers and those of stand-ins take no part."""
    ranked = [row for row in rows if row.ranked]
    targets = list(dict.fromkeys(row.target for row in ranked))
    found = []
    for shape in shapes:
        timed = [row for row in ranked if row.shape(shape) is not None]
        for target in targets:
            found.append(_latency([row for row in timed if row.target == target], target, shape))
        if len(targets) > 1:
            found.append(_latency(timed, None, shape))
        found.append(_cost([row for row in timed if shape in row.cost], shape))
    for target in targets:
        here = [row for row in ranked if row.target == target]
        found += [_energy(here, target), _memory(here, target)]
    found.append(_size(subjects))
    return tuple(ranking for ranking in found if ranking is not None)


def cost_of(latency: Latency, price: float, batch: int = 1) -> Estimate:
    """Price of a million items when the target does nothing else, from a price per hour; `batch` items an inference.

    From the median and its interval, as speed is ranked by, so that the cheaper one of two on a target is the faster
    one. A mean would hold every interruption of this session, of which nobody knows whether it comes again.
    """
    scale = price / 3600.0 * 1e6 / batch
    median = latency.median
    return Estimate(value=median.value * scale, low=median.low * scale, high=median.high * scale)


def _latency(rows: list[Row], target: str | None, shape: str) -> Ranking | None:
    times = _time_ratios(rows, shape)
    sides = [row.side for row in rows]
    return _rank("latency", target, shape, sides, times, openings=_openings(rows, shape), short=_short(rows))


def _cost(rows: list[Row], shape: str) -> Ranking | None:
    times = _time_ratios(rows, shape)
    costs = {row.side: _log(row.cost[shape]) for row in rows}

    def ratio(a: Side, b: Side) -> tuple[Log, int | None]:
        """On one target the price cancels out, and what is left are the paired times."""
        return times(a, b) if a.target == b.target else (_quotient(costs[a], costs[b]), None)

    sides = [row.side for row in rows]
    return _rank("cost", None, shape, sides, ratio, openings=_openings(rows, shape), short=_short(rows))


def _short(rows: list[Row]) -> dict[Side, int]:
    """How many pairs those still need of whom too few were timed for any decision."""
    found = {}
    for row in rows:
        record = row.measurement
        if record is not None and "short" in record.quality:
            needed = max(record.scenario.min_pairs, LEAST_PAIRS[record.scenario.phase])
            found[row.side] = max(1, needed - (record.ratio.pairs if record.ratio is not None else 0))
    return found


def _openings(rows: list[Row], shape: str) -> int:
    """The fewest that one of the intervals rests on; 0 if that is not known."""
    found = [part for row in rows if (part := row.shape(shape)) is not None]
    return min((len(set(part.latency.openings)) for part in found), default=0)


def _time_ratios(rows: list[Row], shape: str) -> Callable[[Side, Side], tuple[Log, int | None]]:
    results = {row.side: found for row in rows if (found := row.shape(shape)) is not None}

    def ratio(a: Side, b: Side) -> tuple[Log, int | None]:
        one, other = results[a], results[b]
        if a.target != b.target:
            return _quotient(_log(one.latency.median), _log(other.latency.median)), None
        zero = (0.0, 0.0, 0.0)  # the model that the others were paired with
        logs = [_log(found.ratio.estimate) if found.ratio is not None else zero for found in (one, other)]
        pairs = [found.ratio.pairs for found in (one, other) if found.ratio is not None]
        return _quotient(*logs), max(pairs, default=None)

    return ratio


def _energy(rows: list[Row], target: str) -> Ranking | None:
    logs = {
        row.side: _log(row.measurement.energy.joules)
        for row in rows
        if row.measurement is not None and row.measurement.energy is not None
        if row.measurement.energy.joules.low > 0  # what does not stand out from rest cannot be ranked
    }
    return _rank("energy", target, "", list(logs), lambda a, b: (_quotient(logs[a], logs[b]), None), openings=_SLICES)


def _memory(rows: list[Row], target: str) -> Ranking | None:
    peaks = {
        row.side: float(max(row.measurement.memory.peak, _MEMORY_FLOOR))
        for row in rows
        if row.measurement is not None and row.measurement.memory is not None
    }

    def smallest(a: Side, b: Side) -> float:
        """Both must be exceeded: a share of a tiny model is nothing, 2 MB of a large one neither."""
        return max(MEMORY, math.log1p(MEMORY_BYTES / min(peaks[a], peaks[b])))

    return _rank("memory", target, "", list(peaks), _exactly(peaks), smallest)


def _size(subjects: Sequence[Subject]) -> Ranking | None:
    """Of the files, which are the same everywhere: their sides name no target."""
    sizes = {Side(model=subject.name): float(max(subject.size_bytes, 1)) for subject in subjects}
    return _rank("size", None, "", list(sizes), _exactly(sizes))


def _exactly(values: dict[Side, float]) -> Callable[[Side, Side], tuple[Log, int | None]]:
    def ratio(a: Side, b: Side) -> tuple[Log, int | None]:
        value = math.log(values[a] / values[b])
        return (value, value, value), None

    return ratio


def _rank(
    metric: Metric,
    target: str | None,
    shape: str,
    sides: list[Side],
    ratio: Callable[[Side, Side], tuple[Log, int | None]],
    smallest: Callable[[Side, Side], float] | None = None,
    *,
    openings: int = 0,
    short: Mapping[Side, int] | None = None,
) -> Ranking | None:
    """None for fewer than two sides: there is nothing to compare.

    `smallest` is the relative difference that counts, by default the metric's. `openings` are what the intervals rest
    on. `short` are sides with too few pairs for a decision, and how many more they need.
    """
    if len(sides) < 2:
        return None
    order = sorted(sides, key=lambda side: ratio(side, sides[0])[0][0])
    wider = _widening(len(sides) - 1, openings)
    pairings = []
    for a, b in combinations(order, 2):
        (value, low, high), pairs = ratio(a, b)
        log = (value, value - wider * (value - low), value + wider * (high - value))
        missing = max((short or {}).get(a, 0), (short or {}).get(b, 0))
        least = smallest(a, b) if smallest is not None else _smallest(metric, a, b)
        verdict, more = judge(log, least, pairs, missing)
        pairings.append(
            Pairing(
                a=a,
                b=b,
                ratio=Estimate(value=math.exp(log[0]), low=math.exp(log[1]), high=math.exp(log[2])),
                verdict=verdict,
                paired=metric in ("latency", "cost") and a.target == b.target,
                interval=metric not in ("memory", "size"),
                more_pairs=more,
            )
        )
    return Ranking(metric=metric, target=target, shape=shape, order=tuple(order), pairings=tuple(pairings))


def judge(log: Log, smallest: float, pairs: int | None, missing: int = 0) -> tuple[Verdict, int | None]:
    """What may be said of a log ratio with its interval; and how many more pairs would settle what is undecided.

    `smallest` is the relative difference that counts as one; `pairs` is what the interval rests on (None: not pairs).
    With `missing` pairs to go until any decision, nothing is decided.
    """
    value, low, high = log
    more = _more_pairs(log, smallest, pairs)
    if missing:
        return "undecided", max(missing, more or 0)
    if not low <= 0 <= high and abs(value) >= smallest:
        return ("less" if value < 0 else "more"), None
    if -smallest <= low and high <= smallest:
        return "tie", None
    return "undecided", more


def _more_pairs(log: Log, smallest: float, pairs: int | None) -> int | None:
    """Until the interval excludes zero or, for a difference that does not count, lies within what does not count.

    If the value stays where it is, and since half widths shrink with the root of the number of pairs.
    """
    if pairs is None:
        return None
    value, low, high = log
    half = max(value - low, high - value)
    goal = abs(value) if abs(value) >= smallest else smallest - abs(value)
    if half >= goal * math.sqrt(LARGEST_NEED / pairs):
        return LARGEST_NEED
    return min(LARGEST_NEED, max(1, math.ceil(pairs * ((half / goal) ** 2 - 1))))


def _smallest(metric: Metric, a: Side, b: Side) -> float:
    if metric == "size":
        return SIZE
    return PAIRED if metric != "energy" and a.target == b.target else UNPAIRED


def _widening(comparisons: int, openings: int) -> float:
    """How much wider a t interval must be so that `comparisons` of them hold together with 95 % (Bonferroni)."""
    if comparisons < 2:
        return 1.0
    from scipy.special import stdtrit  # slow to import, so only where models are compared

    degrees = openings - 1 if openings > 1 else math.inf
    return float(stdtrit(degrees, 1 - 0.025 / comparisons) / stdtrit(degrees, 0.975))


def _log(estimate: Estimate) -> Log:
    return math.log(estimate.value), math.log(estimate.low), math.log(estimate.high)


def _quotient(a: Log, b: Log) -> Log:
    """log a - log b with its interval, from the interval of each."""
    value = a[0] - b[0]
    low = value - math.hypot(a[0] - a[1], b[2] - b[0])
    high = value + math.hypot(a[2] - a[0], b[0] - b[1])
    return value, low, high
