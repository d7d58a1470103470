"""Statistics of a measurement: intervals, percentiles honest about few samples, when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Interval = tuple[float, float, float]  # value, low, high

_RESAMPLES = 2000
_SCHEDULE = (10, 13, 17, 22, 29, 38, 50, 65, 85, 110, 143, 186, 242, 315)


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
    """exp(median of paired log ratios) with its 95 % interval from a bootstrap over pairs."""
    value, low, high = median_interval(log_ratios, seed=seed)
    return math.exp(value), math.exp(low), math.exp(high)


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
