"""Measurements that the others do not expect: timings have outliers, but not every misfit is one.

The residuals are taken for a mixture of a normal distribution and, for a share of the measurements, one five times as
wide, only where they say so: where the mixture explains the leave-one-out residuals clearly better than a single
normal distribution of any width does. A model that is still wrong misses everywhere, and that is no outlier.
"""

from __future__ import annotations

import numpy as np

from autotune.search.surrogate.covariance import inverse
from autotune.search.surrogate.space import Floats

SHARE = 0.05  # of outliers, where there are any
WIDE = 5.0  # times as wide
EVIDENCE = 3.0  # gain in log likelihood from which on outliers are believed in
MOST_CHECKED = 600  # the cost is cubic
ROUNDS = 30


def noise_factors(covariance: Floats, noise: float, target: Floats) -> Floats:
    """(n,) by how much the noise variance of each measurement is larger: 1 where nothing speaks for outliers."""
    count = len(target)
    if count > MOST_CHECKED or count < 10:
        return np.ones(count)
    weights = inverse(covariance + noise * np.eye(count))
    variance = 1 / np.diag(weights)
    residual = (weights @ target) * variance  # leave-one-out
    model = np.maximum(variance - noise, 0.0)  # what the variance owes to the model's own uncertainty
    single = _log_normal(residual, _width(residual, variance) * variance).sum()
    core, odds = 1.0, np.full(count, SHARE)
    for _ in range(ROUNDS):
        narrow = _log_normal(residual, core * (model + noise)) + np.log(1 - SHARE)
        wide = _log_normal(residual, core * (model + WIDE**2 * noise)) + np.log(SHARE)
        odds = 1 / (1 + np.exp(np.clip(narrow - wide, -50, 50)))
        variance_of = np.where(odds > 0.5, model + WIDE**2 * noise, model + noise)
        core = max(float(np.mean(residual**2 / variance_of)), 1e-12)  # 0 where an objective is the same everywhere
    gain = np.logaddexp(narrow, wide).sum() - single
    if gain < EVIDENCE:
        return np.ones(count)
    return np.asarray(np.where(odds > 0.5, WIDE**2, 1.0))


def _width(residual: Floats, variance: Floats) -> float:
    return max(float(np.mean(residual**2 / variance)), 1e-12)


def _log_normal(residual: Floats, variance: Floats) -> Floats:
    return np.asarray(-0.5 * (residual**2 / variance + np.log(variance)))
