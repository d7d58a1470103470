"""Statistics of a measurement: intervals, percentiles honest about few samples, when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Interval = tuple[float, float, float]  # value, low, high

LEAST_OPENINGS = 5  # fewer say too little about how much openings differ: t(3 degrees) makes them 15 % wider than t(4)

_RESAMPLES = 2000
_SCHEDULE = (10, 13, 17, 22, 29, 38, 50, 65, 85, 110, 143, 186, 242, 315)


def interval_over_openings(values: Sequence[float], openings: Sequence[int]) -> Interval:
    """Mean of the medians of the openings, with its 95 % t interval.

    `values` are logarithms (of ratios of pairs, or of block medians), `openings` the opening that each belongs to.
    Where a model's memory lies changes its speed by about 0.5 % and sometimes by 3 %; all values of an opening share
    that, so the openings are what is drawn independently and the pairs inside say nothing about it.

    The method was chosen by simulation (20 to 50 pairs, looks at 20, 29, 38 and 50; openings that differ normally or in
    two kinds, bursts, pairs that differ). A bootstrap over pairs covers 40 to 88 %. A hierarchical percentile bootstrap
    of medians covers 79 to 99 %, and errs twice as much when layouts come in two kinds (a fast and a slow one), where a
    median over openings, or a trimmed mean, jumps from one kind to the other. Means of all pairs err twice as much
    under bursts. This one covers 93 to 95 % with three pairs in an opening: bursts are outvoted inside the opening,
    and openings are averaged. `benchmarks/interval_coverage.py` repeats it on simulated block times, with drift,
    throttling and autocorrelation of the machine, which pairing takes out of ratios, but nothing takes out of absolute
    times: an interval of these is one of the time during this measurement.

    With one opening the values themselves are taken, as if they were independent: the interval is too narrow, and
    whoever asks must say so. With one value there is no interval.
    """
    groups: dict[int, list[float]] = {}
    for value, opening in zip(values, openings, strict=True):
        groups.setdefault(opening, []).append(value)
    if not groups:
        raise ValueError("an interval needs at least one value")
    found = [float(np.median(group)) for group in groups.values()] if len(groups) > 1 else list(values)
    middle = float(np.mean(found)) if len(groups) > 1 else float(np.median(found))
    if len(found) < 2:
        return middle, middle, middle
    half = _student(len(found) - 1) * float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return middle, middle - half, middle + half


def exponential(interval: Interval) -> Interval:
    """The interval of a logarithm as one of the number itself."""
    value, low, high = interval
    return math.exp(value), math.exp(low), math.exp(high)


def half_width(interval: Interval) -> float:
    """Half of the width: of an interval of logarithms, the relative precision."""
    return (interval[2] - interval[1]) / 2


def median_interval(values: Sequence[float], *, seed: int) -> Interval:
    """Median and its 95 % percentile-bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    `values` must be nearly independent: medians of blocks or log ratios of pairs, not single inferences.
    Order statistics of single inferences cover 46 % instead of 95 % when neighbours correlate by 0.9.
    """
    from scipy.stats import bootstrap  # half a second to import, so only where something is measured

    data = np.asarray(values, dtype=np.float64)
    value = float(np.median(data))
    if data.size < 2:
        return value, value, value
    found = bootstrap(
        (data,),
        np.median,
        n_resamples=_RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return value, min(float(found.low), value), max(float(found.high), value)


def ratio_interval(log_ratios: Sequence[float], *, seed: int) -> Interval:
    """exp(median of paired log ratios) with its 95 % interval from a bootstrap over pairs.

    For pairs of which each is drawn afresh; two opened models are not: see `interval_over_openings`.
    """
    return exponential(median_interval(log_ratios, seed=seed))


def tail_percentile(samples: Sequence[float], percentile: float) -> float | None:
    """Upper estimate of a percentile (0.9, 0.99) at 99 % confidence, or None if there are too few samples.

    The early-stopping rule of MLPerf Inference: with the largest t for which at most t of n samples above the
    percentile would be a 1 % accident, discard the t - 1 highest and report the highest of the rest. Needs 64
    samples for the 90th percentile, 662 for the 99th.
    """
    from scipy.stats import binom

    count = len(samples)
    t = int(binom.ppf(0.01, count, 1 - percentile))
    while t >= 1 and binom.cdf(t, count, 1 - percentile) > 0.01:
        t -= 1
    if t < 1:
        return None
    return float(np.partition(np.asarray(samples, dtype=np.float64), count - t)[count - t])


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation: standard deviation / mean; 0 for fewer than two values."""
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2 or data.mean() == 0:
        return 0.0
    return float(data.std(ddof=1) / data.mean())


def looks(smallest: int, largest: int) -> list[int]:
    """Numbers of pairs at which stopping may be considered: from `smallest` in steps of about 30 % to `largest`.

    Peeking after every pair would stop on a lucky streak and make the interval too narrow. A scheduled look
    less than 20 % after the first says nothing new and is left out.
    """
    largest = max(smallest, largest)
    between = [look for look in _SCHEDULE if smallest * 1.2 <= look < largest]
    return sorted({smallest, *between, largest})


def pairs_per_opening(wanted: int, min_pairs: int) -> int:
    """At most `wanted`, and so few that the first look sees at least LEAST_OPENINGS openings."""
    return max(1, min(wanted, -(-min_pairs // LEAST_OPENINGS)))


def _student(degrees: int) -> float:
    """The 97.5 % point of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))
