"""Bounds on a drop that may be looked at again and again while samples come in.

The differences D of a slice's scores (original - candidate, each in [-1, 1]) are bet on: a gambler who holds that the
true mean is above L stakes the share c of what is safe on every sample, and owns prod (1 + c (D - L) / (1 + L)). If
the mean is at most L, that is a nonnegative supermartingale which starts at 1, so by Ville's inequality it ever
reaches 1/alpha with probability at most alpha, however often one looks and whatever the distribution. The lower bound
is the smallest L at which the gambler is not that rich; the stakes c are spread over a grid, of which the mean counts
(Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 86, 2024, sections 4.1 and
4.3). Right-or-wrong scores need no method of their own: the bound is exact for them too.

`nested_parts` gives every stratum its share of each part. By the inequality of the means the capital's expected
growth over a part is then no larger than with independent samples: the bound holds at the end of every part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from autotune.slices import ALL, Mask

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

CERTAINTY = 0.95  # over all looks and all slices together
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the data that have been judged at each look
FEWEST = 64  # samples of the first part: with fewer only a ruin could be told, and each part costs a start
_STAKES: Floats = np.geomspace(0.02, 0.98, 12)
_EDGE = 1e-6


@dataclass(frozen=True)
class Bounds:
    """The mean drop of `n` samples; the true one is at least `low`, and at most `high`, each with its certainty."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Hopeless:
    """`slice` has certainly lost more than `limit`: at least `low`."""

    slice: str
    low: float
    limit: float


def bounds(differences: Floats, alpha: float) -> Bounds:
    """Of the mean of `differences` `[n]`, n > 0; each side is wrong with probability `alpha` at most, over all looks.

    Raises `ValueError` for differences beyond [-1, 1]: nothing could be said of those.
    """
    if not len(differences) or np.abs(differences).max() > 1:
        raise ValueError("the bounds need samples, and differences of scores between 0 and 1")
    values, counts = np.unique(np.asarray(differences, np.float64), return_counts=True)
    mean = float(np.average(values, weights=counts))
    return Bounds(
        n=len(differences),
        value=mean,
        low=min(mean, _lowest(values, counts, alpha)),
        high=max(mean, -_lowest(-values, counts, alpha)),
    )


def slice_bounds(differences: Floats, masks: Mapping[str, Mask], *, among: int) -> dict[str, Bounds]:
    """Slice -> bounds that hold for `among` slices at once. Slices without a sample are left out."""
    alpha = (1 - CERTAINTY) / among
    return {name: bounds(differences[mask], alpha) for name, mask in masks.items() if mask.any()}


def hopeless(
    found: Mapping[str, Bounds],
    limits: Mapping[str, float],
    *,
    worst: float | None = None,
    weights: Mapping[str, float] | None = None,
) -> Hopeless | None:
    """The slice that is certainly beyond its limit, by the most; None where there is none.

    `limits`: slice -> its largest drop. `worst`: the largest drop that any slice of `weights` may have after it is
    shrunk towards the overall drop, its own part being the weight.
    """
    beyond = [
        Hopeless(name, found[name].low, limit)
        for name, limit in limits.items()
        if name in found and found[name].low > limit
    ]
    if worst is not None and ALL in found:
        overall = found[ALL].low
        for name, own in (weights or {}).items():
            if name in found and own * found[name].low + (1 - own) * overall > worst:
                # Both together are beyond the limit, so at least one of them is.
                certain = name if found[name].low > worst else ALL
                beyond.append(Hopeless(certain, found[certain].low, worst))
    return max(beyond, key=lambda each: each.low - each.limit, default=None)


def look_sizes(n: int) -> tuple[int, ...]:
    """How many of `n` samples have been judged at each look; the last is `n`."""
    sizes = [max(FEWEST, math.ceil(n * share)) for share in SHARES[:-1]]
    return (*sorted({size for size in sizes if size <= n // 2 + 1 and size < n}), n)


def nested_parts(masks: Mapping[str, Mask], sizes: Sequence[int], seed: int) -> list[Indices]:
    """Indices, sorted, of the samples that each look adds: together they are all, no sample twice.

    Samples that are in the same slices form a stratum. Each stratum is shuffled and spread evenly over the order, so
    that every slice has its share in every part.
    """
    n = len(masks[ALL])
    rng = np.random.default_rng(seed)
    _, stratum = np.unique(np.stack(list(masks.values())), axis=1, return_inverse=True)
    place = np.empty(n)
    for members in (np.flatnonzero(stratum == each) for each in range(int(stratum.max()) + 1)):
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(place, kind="stable")
    return [np.sort(part) for part in np.split(order, list(sizes[:-1]))]


def shrinkage_weights(masks: Mapping[str, Mask], names: Collection[str], shrinkage: float) -> dict[str, float]:
    """Slice -> the weight of its own drop in its shrunk drop, n / (n + n0), n over all samples of the data."""
    counts = {name: int(masks[name].sum()) for name in names}
    return {name: n / (n + shrinkage) for name, n in counts.items()}


def _lowest(values: Floats, counts: NDArray[np.intp], alpha: float) -> float:
    """The smallest mean that `values` (each `counts` times) do not refute."""
    rich = math.log(1 / alpha)

    def excess(limit: float) -> float:
        growth = np.log1p(_STAKES[:, None] * (values - limit) / (1 + limit)) @ counts
        return float(np.logaddexp.reduce(growth)) - math.log(len(_STAKES)) - rich

    if excess(-1 + _EDGE) <= 0:
        return -1.0
    if excess(1 - _EDGE) >= 0:
        return 1.0 - _EDGE
    return float(optimize.brentq(excess, -1 + _EDGE, 1 - _EDGE, xtol=1e-6))
