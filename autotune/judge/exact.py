"""Is a loss beyond the limit certain although there are few samples? Tests that hold for any number of them.

The intervals of `intervals` are made for slices that are large enough to be judged. Below that a score interval may be
wrong more often than it says, so a small slice fails only by a test whose error is bounded whatever the truth is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from autotune.judge import sequential

Floats = NDArray[np.float64]

_RATES = 101  # of flips to the better under which the limit is just kept
_HIGHEST = 1 - 1e-9


@lru_cache(maxsize=4096)
def lost(worse: int, better: int, n: int, limit: float, error: float) -> bool:
    """Whether `worse` losses and `better` gains among n right-or-wrong samples show a true drop above `limit`.

    The unconditional exact test of paired proportions (Sidik, Journal of Biopharmaceutical Statistics 13, 2003,
    265-278): outcomes are ordered by the score of `intervals.tango`, and the probability of one at least as extreme is
    the largest over all rates of flips at which the drop is `limit`. Wrong with probability `error` at most. A negative
    limit counts as 0.
    """
    limit = min(max(limit, 0.0), _HIGHEST)
    if (worse - better) / n <= limit or stats.binomtest(worse, worse + better, alternative="greater").pvalue > error:
        return False  # what does not even show a loss needs no sum over all outcomes
    losses, gains = (axis.ravel() for axis in np.indices((n + 1, n + 1)))
    there = losses + gains <= n
    losses, gains = losses[there], gains[there]
    least = _scores(np.array([worse]), np.array([better]), n, limit)[0]
    extreme = _scores(losses, gains, n, limit) >= least - 1e-9
    losses, gains = losses[extreme], gains[extreme]
    same = n - losses - gains
    ways = special.gammaln(n + 1) - sum(special.gammaln(count + 1) for count in (losses, gains, same))
    for rate in (1 - limit) / 2 * np.linspace(0, 1, _RATES) ** 2:
        logs = ways + special.xlogy(losses, rate + limit) + special.xlogy(gains, rate)
        logs += special.xlogy(same, max(0.0, 1 - limit - 2 * rate))
        if np.exp(logs).sum() > error:
            return False
    return True


def lost_mean(differences: Floats, limit: float, error: float) -> bool:
    """The same for differences of scores between 0 and 1, by betting (see `sequential`)."""
    return sequential.bounds(differences, error).low > max(limit, 0.0)


def _scores(losses: NDArray[np.int_], gains: NDArray[np.int_], n: int, drop: float) -> Floats:
    """Tango's score of each outcome against a true drop of `drop`."""
    b = (2 * n - losses + gains) * drop - losses - gains
    rate = (np.sqrt(np.maximum(b**2 + 8 * n * gains * drop * (1 - drop), 0.0)) - b) / (4 * n)
    return np.asarray((losses - gains - n * drop) / np.sqrt(np.maximum(n * (2 * rate + drop * (1 - drop)), 1e-300)))
