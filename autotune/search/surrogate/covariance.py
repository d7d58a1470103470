"""Cholesky factors of covariances that rounding may have made singular."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from autotune.search.surrogate.space import Floats

# Tried in turn, relative to each variance: the noise of a nearly perfect fit can be below the rounding of a sum of
# kernels (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, A.4).
_JITTER = (0.0, 1e-10, 1e-8, 1e-6, 1e-4)


def factorised(covariance: Floats) -> Any:
    """What `scipy.linalg.cho_solve` takes, of a symmetric positive semi-definite (n, n).

    Raises `numpy.linalg.LinAlgError` where it is not that, by more than rounding, or not finite.
    """
    variances = np.diag(covariance)
    if not np.isfinite(covariance).all():
        raise LinAlgError("a covariance is not finite")
    for jitter in _JITTER[:-1]:
        try:
            return cho_factor(covariance + np.diag(jitter * variances) if jitter else covariance, lower=True)
        except LinAlgError:
            continue
    return cho_factor(covariance + np.diag(_JITTER[-1] * variances), lower=True)


def inverse(covariance: Floats) -> Floats:
    """(n, n). Raises as `factorised`."""
    return np.asarray(cho_solve(factorised(covariance), np.eye(len(covariance))))
