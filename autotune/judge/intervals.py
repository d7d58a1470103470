"""95 % intervals and tests of paired data: the original and the candidate on the same samples.

Which method is used where, and why:
- one accuracy: Wilson (scipy).
- the drop of right-or-wrong scores: Tango's score interval. It keeps its coverage with few flips, where the
  bootstrap degenerates: with no flip at all among n samples it is +-z^2/(n+z^2), close to the rule of three.
- means of real-valued scores and of divergences: the t interval corrected for skewness (Hall 1992); for the
  drop, of which most samples often have none, with two made-up samples.
- a metric that is not a mean of per-sample scores: paired percentile bootstrap of the whole metric (scipy),
  again with two made-up samples. Its p values are the share of resamples without a loss, so that p is below 2.5 %
  exactly where the interval excludes 0.

`benchmarks/verdicts.py` measures how often each holds the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from autotune.judge import exact
from hwprofiles.measurement import Estimate

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]
Whole = Callable[[Indices, Flags], tuple[float, float] | None]

CONFIDENCE = 0.95
ONE_SIDED = (1 - CONFIDENCE) / 2  # error at one end of an interval
Z = float(stats.norm.isf(ONE_SIDED))
METRIC_RESAMPLES = 500  # each costs two calls of the user's metric
_ANY = (-math.inf, math.inf)
_EDGE = 1e-9
_FEW = 5  # changed samples up to which the made-up ones are as large as the largest
_REDRAWS = 100  # of a resample on which the metric has no value


@dataclass(frozen=True)
class Paired:
    """Original, candidate and their difference (positive: the candidate is worse) on the same samples."""

    original: Estimate
    candidate: Estimate
    drop: Estimate
    p_value: float  # two sided, of "no difference"
    variance: float  # of one sample's difference
    low_at: Callable[[float], float] = field(compare=False)  # lower end of the drop for a one-sided error
    high_at: Callable[[float], float] = field(compare=False)  # the same for the upper end
    p_worse: float  # one sided, of "no loss"
    flips: tuple[int, int] | None = None  # (worse, better) of right-or-wrong scores
    lost: Callable[[float, float], bool] | None = field(default=None, compare=False)  # see `judge.exact`
    """`lost(limit, error)`: the true drop is certainly above `limit`, however few samples there are. None where
    nothing can be said of few samples: unbounded scores, and metrics of the whole."""


def binary(original: Floats, candidate: Floats) -> Paired:
    """Scores that are 0 or 1, `[n]` each: Wilson, Tango and the exact McNemar test."""
    n = len(original)
    worse = int(np.sum(original > candidate))
    better = int(np.sum(original < candidate))
    return Paired(
        proportion(int(original.sum()), n),
        proportion(int(candidate.sum()), n),
        tango(worse, better, n),
        mcnemar(worse, better),
        (worse + better + 1) / (n + 1),  # one flip more than was seen: none seen does not mean none there
        lambda error: tango(worse, better, n, error).low,
        lambda error: tango(worse, better, n, error).high,
        mcnemar(worse, better, "greater"),
        (worse, better),
        lambda limit, error: exact.lost(worse, better, n, limit, error),
    )


def graded(original: Floats, candidate: Floats) -> Paired:
    """Real-valued scores, `[n]` each: intervals of means as in `mean`, and the paired t test.

    Two made-up samples, one that lost and one that gained, are added to the differences, as Bonett and Price
    (2012) do for right-or-wrong scores: without them the interval is too short where few samples changed, and
    the test too sure. With up to 5 changed samples they are as large as the largest change, with more of them
    they come down towards the root mean square.
    """
    differences = original - candidate
    n = len(original)
    pooled = np.concatenate([original, candidate])
    bounded = bool(pooled.min() >= 0 and pooled.max() <= 1)
    span = 1.0 if bounded else max(float(np.ptp(pooled)), 1e-12)
    within = (0.0, 1.0) if bounded else _ANY
    before, after = (mean(each, span=span, within=within) for each in (original, candidate))
    changes = np.abs(differences[differences != 0])
    drop = float(differences.mean())
    lost = (lambda limit, error: exact.lost_mean(differences, limit, error)) if bounded else None
    if np.ptp(differences) < 1e-12:  # no change, or the same one everywhere
        p_value = 1.0 if abs(drop) < 1e-12 else 0.5 ** (n - 1)  # the sign test
        margin = span * _unseen(n)
        same = _estimate(drop, drop - margin, drop + margin)
        p_worse = p_value / 2 if drop > 1e-12 else 1.0
        return Paired(before, after, same, p_value, span**2 / (n + 1), *_scaled(same), p_worse, lost=lost)
    typical, largest = float(np.sqrt(np.mean(changes**2))), float(changes.max())
    size = typical + (largest - typical) * min(1.0, _FEW / len(changes))
    more = np.append(differences, [size, -size])
    ends = mean(more, span=span)
    return Paired(
        before,
        after,
        _estimate(drop, ends.low, ends.high),
        float(stats.ttest_1samp(more, 0.0).pvalue),
        float(more.var()),
        lambda error: mean(more, span=span, error=error).low,
        lambda error: mean(more, span=span, error=error).high,
        float(stats.ttest_1samp(more, 0.0, alternative="greater").pvalue),
        lost=lost,
    )


def whole(statistic: Whole, changed: Indices, n: int, *, seed: int = 0) -> Paired:
    """A metric over all samples, by the paired percentile bootstrap (Efron and Tibshirani 1993).

    `statistic(rows, swapped)` gives (original, candidate) over the samples `rows`, with the answers of the two
    models exchanged where `swapped`; None where the metric has no value for these samples, which are then drawn
    again. `changed` are the samples on which the answers differ: each resample is drawn from n + 2 samples, the
    last two of which are one of these at random, as it is and exchanged.

    Raises `ValueError` if the metric has no value for all samples, or for 100 resamples in a row.
    """
    rng = np.random.default_rng(seed)
    made_up = 2 if len(changed) else 0

    def one(drawn: Indices) -> tuple[float, float]:
        for _ in range(_REDRAWS):
            rows = np.where(drawn < n, drawn, rng.choice(changed) if made_up else 0)
            found = statistic(rows, drawn == n + 1)
            if found is not None:
                return found
            drawn = rng.integers(0, n + made_up, n + made_up)
        raise ValueError(f"the metric has no value for {_REDRAWS} resamples of {n} samples in a row")

    def three(indices: Indices, axis: int = -1) -> Floats:
        values = np.array([one(row) for row in np.moveaxis(indices, axis, -1)]).T  # [2, resamples]
        return np.concatenate([values, values[:1] - values[1:]])

    value = statistic(np.arange(n), np.zeros(n, dtype=bool))
    if value is None:
        raise ValueError(f"the metric has no value for these {n} samples")
    found = stats.bootstrap(
        (np.arange(n + made_up),),
        three,
        vectorized=True,
        n_resamples=METRIC_RESAMPLES,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=rng,
    )
    drawn, drops = found.confidence_interval, found.bootstrap_distribution[2]
    ends = np.stack([[*value, value[0] - value[1]], drawn.low, drawn.high], axis=-1).tolist()
    original, candidate, drop = (_estimate(*row) for row in ends)
    if drop.high - drop.low < 1e-12:  # no resample shows a change: the data allow a small one all the same
        margin = _unseen(n)
        drop = _estimate(drop.value, drop.value - margin, drop.value + margin)
    variance = n * ((drop.high - drop.low) / (2 * Z)) ** 2
    p_worse, p_better = (_share(side <= 1e-12) for side in (drops, -drops))
    return Paired(original, candidate, drop, min(1.0, 2 * min(p_worse, p_better)), variance, *_scaled(drop), p_worse)


@lru_cache(maxsize=65536)
def proportion(successes: int, n: int) -> Estimate:
    """A fraction with its Wilson interval."""
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return _estimate(successes / n, float(interval.low), float(interval.high))


def mean(
    values: Floats,
    *,
    span: float = 1.0,
    error: float = ONE_SIDED,
    within: tuple[float, float] = _ANY,
) -> Estimate:
    """The mean of `values`, `[n]`, with an interval of `error` at each end.

    The t interval after Hall's monotone transformation, which takes out the skewness (Journal of the Royal
    Statistical Society B 54, 1992, 221-228). Where all values are equal, the bound for what n samples did not show,
    times `span`. No end is outside `within`, the range that the mean is known to have.
    """
    n = len(values)
    centre = float(values.mean())
    if n < 3 or np.ptp(values) < 1e-12:
        margin = span * _unseen(n)
        return _estimate(centre, max(centre - margin, within[0]), min(centre + margin, within[1]))
    away = values - centre
    skewness = float(np.mean(away**3) / np.mean(away**2) ** 1.5) / math.sqrt(n)
    standard_error = float(values.std(ddof=1)) / math.sqrt(n)
    quantile = float(stats.t.isf(error, n - 1))

    def back(at: float) -> float:
        if abs(skewness) < 1e-6:
            return at
        return 3 * (float(np.cbrt(1 + skewness * (at - skewness / 6))) - 1) / skewness

    low, high = centre - standard_error * back(quantile), centre - standard_error * back(-quantile)
    return _estimate(centre, max(low, within[0]), min(high, within[1]))


@lru_cache(maxsize=65536)
def mcnemar(worse: int, better: int, alternative: Literal["two-sided", "greater"] = "two-sided") -> float:
    """p value of the exact McNemar test ("greater": of no loss); 1.0 without any flip."""
    return float(stats.binomtest(worse, worse + better, alternative=alternative).pvalue) if worse + better else 1.0


@lru_cache(maxsize=65536)
def tango(worse: int, better: int, n: int, error: float = ONE_SIDED) -> Estimate:
    """(worse - better) / n with the score interval of Tango (Statistics in Medicine 17, 1998, 891-908).

    The interval holds every difference d that the score test does not reject with `error` on its side; the nuisance
    parameter, the rate of flips to the better, is at its maximum-likelihood value under d.
    """
    drop = (worse - better) / n
    z = Z if error == ONE_SIDED else float(stats.norm.isf(error))

    def score(d: float) -> float:
        b = (2 * n - worse + better) * d - worse - better
        rate = (math.sqrt(max(b * b + 8 * n * better * d * (1 - d), 0.0)) - b) / (4 * n)
        return (worse - better - n * d) / math.sqrt(max(n * (2 * rate + d * (1 - d)), 1e-300))

    def edge(start: float, end: float, target: float) -> float:
        if (score(start) - target) * (score(end) - target) >= 0:
            return start
        return float(optimize.brentq(lambda d: score(d) - target, start, end, xtol=1e-7))

    low = edge(-1 + _EDGE, drop, z) if drop > -1 + _EDGE else -1.0
    high = edge(1 - _EDGE, drop, -z) if drop < 1 - _EDGE else 1.0
    return _estimate(drop, low, high)


def _scaled(drop: Estimate) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Both ends for another error, as if the interval were normal."""
    return (
        lambda error: drop.value - (drop.value - drop.low) * float(stats.norm.isf(error)) / Z,
        lambda error: drop.value + (drop.high - drop.value) * float(stats.norm.isf(error)) / Z,
    )


def _share(flags: Flags) -> float:
    """Of resamples; never 0, which no finite number of them can show (Davison and Hinkley 1997, section 4.2)."""
    return float((1 + np.sum(flags)) / (1 + len(flags)))


def _unseen(n: int) -> float:
    """How large a fraction of samples may differ although none of n did: Tango's bound without flips."""
    return Z**2 / (n + Z**2)


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=min(low, value), high=max(high, value))
