"""Is the surrogate right? What it predicted before it was measured, against the measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from autotune.search.surrogate.space import Floats

FEWEST = 8  # pairs below which a rank correlation says nothing
GOOD_RANK = 0.5
GOOD_ERROR = 0.5  # of the spread: half of what a constant guess would miss by


@dataclass(frozen=True)
class Health:
    """One entry per objective: Spearman's rank correlation of predicted and measured values over the last two
    batches (NaN where the values are all equal), and the median of |predicted - measured| as a share of the median
    magnitude of what was measured, or of its spread, whichever is larger (NaN where all of it is 0)."""

    n: int
    rank_correlation: tuple[float, ...]
    relative_error: tuple[float, ...]
    good: bool  # every objective is ranked well, or predicted to within half its spread


def check_health(pairs: Sequence[tuple[Floats, Floats]], sign: Floats, seen: Floats) -> Health | None:
    """Health from (predicted, measured) batches, each (n, M) and minimised; None without any.

    `seen` (N, M) is all that was measured. The spread is that of the batches or of all of it, the larger one: where
    proposals differ by noise alone, as in a cost that hardly any choice changes, no model ranks them, and exploring
    teaches nothing.
    """
    if not pairs:
        return None
    predicted = np.concatenate([p for p, _ in pairs]) * sign
    measured = np.concatenate([m for _, m in pairs]) * sign
    ranks, errors, good = [], [], True
    for p, m, every in zip(predicted.T, measured.T, seen.T, strict=True):
        known = np.isfinite(m)
        p, m = p[known], m[known]
        rank = _spearman(p, m)
        everything = every[np.isfinite(every)]
        errors.append(_relative_error(p, m, everything))
        ranks.append(rank)
        if len(m) >= FEWEST and rank < GOOD_RANK:
            spread = max(_spread(m), _spread(everything))
            good &= bool(np.abs(p - m).mean() <= GOOD_ERROR * spread)
    return Health(len(predicted), tuple(ranks), tuple(errors), good)


def _relative_error(p: Floats, m: Floats, seen: Floats) -> float:
    """Not of each measurement by itself: a drop may well be 0, and any error is infinitely larger."""
    if not len(m):
        return float("nan")
    scale = max(float(np.median(np.abs(m))), _spread(m)) or _spread(seen)
    return float(np.median(np.abs(p - m)) / scale) if scale else float("nan")


def _spread(values: Floats) -> float:
    """What a constant guess misses by on average."""
    return float(np.abs(values - values.mean()).mean()) if len(values) else 0.0


def _spearman(a: Floats, b: Floats) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
