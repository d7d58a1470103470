"""What the data could have shown: the smallest drop that is found with 80 % power, and how many samples decide.

All for paired comparisons. The rate of flips (discordant pairs) drives everything: two models that disagree on 2 % of
the samples are told apart with far fewer samples than two that disagree on 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from autotune.judge.intervals import ONE_SIDED, Paired, tango

POWER = 0.80
ALPHA = 0.05  # one sided
AMONG_MANY = 0.005  # the same for a slice that is one of about ten, of which q is corrected
SMALLEST = 200  # samples below which no verdict is shown by default
FLIPS = 0.02  # the rate that is taken where nothing was measured yet: 8-bit models flip 1 to 4 % of the answers
_Z_POWER = float(stats.norm.ppf(POWER))
_Z_ALPHA = float(stats.norm.isf(ALPHA))
MOST = 1_000_000  # samples; nobody asks for more
_EXACT = 100_000  # samples up to which the power is computed exactly


@lru_cache(maxsize=65536)
def detectable(n: int, flips: float) -> float | None:
    """The smallest true drop that n right-or-wrong samples show with 80 % power, one sided at 5 %.

    The test is McNemar's with mid-p values (Fagerland, Lydersen and Laake 2013), its power exact: over the number of
    flips and their directions. `flips` is the rate at which the two models disagree; where even a drop of all of it
    would not be found, the drop of more flips that would be. None for fewer than 6 samples, which show nothing.
    """
    flips = min(max(flips, 1e-9), 1.0)
    if n > _EXACT:
        drop = (_Z_ALPHA + _Z_POWER) * math.sqrt(flips / n)
        return min(drop, flips) if drop <= flips else _rare(n)
    if _power(n, flips, flips) >= POWER:
        return float(optimize.brentq(lambda d: _power(n, flips, d) - POWER, 0.0, flips, xtol=1e-6))
    if _power(n, 1.0, 1.0) < POWER or n < 6:
        return None
    return float(optimize.brentq(lambda d: _power(n, d, d) - POWER, flips, 1.0, xtol=1e-6))


def detectable_mean(n: int, variance: float) -> float:
    """The same for a mean of differences with this `variance` per sample (normal approximation)."""
    return (_Z_ALPHA + _Z_POWER) * math.sqrt(variance / n)


@lru_cache(maxsize=4096)
def enough_for(limit: float, flips: float = FLIPS, share: float = 1.0) -> int:
    """The smallest slice on which a candidate without a true drop passes `limit` in 80 % of cases.

    Flips go both ways alike, at the rate `flips`; passing means that the upper end of the interval is within the limit.
    It is wrong in 2.5 % of cases, or in the `share` of that which one of several models has. At least 200: below that
    no verdict is shown. Raises `ValueError` for a limit that is not positive.
    """
    if limit <= 0:
        raise ValueError(f"a limit on a drop must be positive to be met by any number of samples, not {limit:g}")
    error = ONE_SIDED * share
    about = math.ceil((float(stats.norm.isf(error)) + _Z_POWER) ** 2 * flips / limit**2)
    if about > _EXACT:
        return about
    low, high = SMALLEST, max(2 * SMALLEST, 2 * about)
    if _passes(low, limit, flips, error) >= POWER:
        return low
    while _passes(high, limit, flips, error) < POWER:
        low, high = high, 2 * high
    while high - low > max(1, low // 100):  # to 1 %: the power moves in small steps, whole numbers being what they are
        middle = (low + high) // 2
        low, high = (low, middle) if _passes(middle, limit, flips, error) >= POWER else (middle, high)
    return high


def more_samples(paired: Paired, limit: float, n: int, share: float = 1.0) -> int:
    """About how many more samples would decide between `limit` kept and broken (at least 1).

    The smallest detectable paired difference is (z + z_power) * sd / sqrt(n); this solves it for n at 80 % power. The
    distance to the limit is not taken below a quarter of the limit, nor below 0.0001: no number of samples decides a
    drop on it. With right-or-wrong scores at least as many as it takes for the interval to be on one side of the limit
    if flips go on as they did; fewer where it takes fewer to be certain of a loss above half of the limit. `share` is
    the part of the error that this one of several models may spend.
    """
    error = ONE_SIDED * share
    distance = max(abs(limit - paired.drop.value), limit / 4, 1e-4)
    about = max(1, math.ceil((float(stats.norm.isf(error)) + _Z_POWER) ** 2 * paired.variance / distance**2) - n)
    if paired.flips is None or n == 0:
        return about
    rates = paired.flips[0] / n, paired.flips[1] / n
    placed = _first(lambda size: _placed(*rates, size, limit, error), n)
    lost = _first(lambda size: _lost(*rates, size, limit, AMONG_MANY * share), n)
    return max(1, min(max(about, placed), lost))


def _first(decided: Callable[[int], bool], n: int) -> int:
    """How many samples beyond n until `decided`; `MOST` where even so many do not."""
    low, high = n, n + 1
    while not decided(high):
        if high > MOST:
            return MOST
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high - n


def _placed(worse: float, better: float, n: int, limit: float, error: float) -> bool:
    """Whether the interval of the drop is on one side of the limit, at these rates of flips."""
    drop = tango(round(worse * n), round(better * n), n, error)
    return drop.high <= limit or drop.low > limit


def _lost(worse: float, better: float, n: int, limit: float, error: float) -> bool:
    """Whether it is certain among many slices that there is a loss, and more than half of the limit as measured."""
    losses, gains = round(worse * n), round(better * n)
    if losses <= gains or (losses - gains) / n <= limit / 2:
        return False
    return bool(stats.binomtest(losses, losses + gains, alternative="greater").pvalue < error)


def _rare(n: int) -> float:
    """Where all flips are losses and few: four of them are significant, 5.5 expected ones give four in 80 %."""
    return 5.515 / n


def _power(n: int, flips: float, drop: float) -> float:
    """Of the one-sided mid-p McNemar test."""
    few = int(stats.binom.ppf(1e-7, n, flips))
    counts = np.arange(few, int(stats.binom.isf(1e-7, n, flips)) + 1)
    needed = _critical(int(counts[-1]) + 1)[counts]
    share = min(1.0, (1 + drop / flips) / 2)
    return float(np.sum(stats.binom.pmf(counts, n, flips) * stats.binom.sf(needed - 1, counts, share)))


@lru_cache(maxsize=64)
def _critical(size: int) -> NDArray[np.int64]:
    """For 0 to size - 1 flips: how many must be losses for a mid-p value of at most 5 %; one more than all: never."""
    if size > 1024:
        size = 1 << (size - 1).bit_length()  # so that few different tables are made
    counts = np.arange(size)
    needed = np.asarray(stats.binom.isf(ALPHA, counts, 0.5)).astype(np.int64)  # P(losses > needed) <= 5 %
    needed = np.maximum(needed, 0)
    mid = stats.binom.sf(needed, counts, 0.5) + stats.binom.pmf(needed, counts, 0.5) / 2
    return np.where(mid <= ALPHA, needed, needed + 1)


def _passes(n: int, limit: float, flips: float, error: float) -> float:
    """Probability that Tango's upper end is within the limit when flips go both ways alike."""
    most = int(stats.binom.isf(1e-6, n, flips))
    counts = np.arange(int(stats.binom.ppf(1e-6, n, flips)), most + 1)
    if len(counts) > 60:  # the number of flips hardly matters then: a few of them stand for all
        counts = np.unique(stats.binom.ppf((np.arange(15) + 0.5) / 15, n, flips).astype(int))
        weights = np.full(len(counts), 1 / len(counts))
    else:
        weights = stats.binom.pmf(counts, n, flips)
    total = 0.0
    for count, weight in zip(counts.tolist(), weights.tolist(), strict=True):
        low, high = -1, count  # the most losses that pass: the upper end grows with them
        while low < high:
            worse = (low + high + 1) // 2
            low, high = (worse, high) if tango(worse, count - worse, n, error).high <= limit else (low, worse - 1)
        total += weight * float(stats.binom.cdf(low, count, 0.5)) if low >= 0 else 0.0
    return total
