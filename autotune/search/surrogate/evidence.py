"""Variance components of a Gaussian linear model by maximum marginal likelihood (type II, "evidence")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_solve
from scipy.optimize import minimize

from autotune.search.surrogate.covariance import factorised
from autotune.search.surrogate.space import Floats

SPREAD = 1.5  # prior sd of a log standard deviation around its default
ROWS = 300  # observations used for amplitudes: the cost is cubic, the gain is not


def fit_amplitudes(
    kernels: Sequence[Sequence[Floats]],
    targets: Sequence[Floats],
    start: Floats,
    *,
    noise: Sequence[Floats] | None = None,
    steps: int = 25,
) -> tuple[Floats, float]:
    """Standard deviations (G + 1,) of G variance components and of the white noise (last), and the log evidence.

    `targets[s]` (n,) ~ N(0, sum_g sd_g^2 kernels[s][g] + sd_noise^2 diag(noise[s])), independent over s. `start` are
    the defaults; each log sd has the prior N(log start, 1.5^2), so few observations leave it where it was.
    """
    centre = np.log(start)
    noise = noise if noise is not None else [np.ones(len(t)) for t in targets]

    def objective(offset: Floats) -> tuple[float, Floats]:
        variances = np.exp(2 * (centre + offset))
        value, gradient = 0.5 * float(offset @ offset) / SPREAD**2, offset / SPREAD**2
        for parts, target, scale in zip(kernels, targets, noise, strict=True):
            covariance = np.diag(variances[-1] * scale)
            for variance, part in zip(variances, parts, strict=False):
                covariance += variance * part
            factor = factorised(covariance)
            inverse = cho_solve(factor, np.eye(len(target)), check_finite=False)
            alpha = inverse @ target
            value += 0.5 * float(target @ alpha) + float(np.log(np.diag(factor[0])).sum())
            inner = inverse - np.outer(alpha, alpha)
            slopes = [float(np.vdot(inner, part)) for part in parts]
            slopes.append(float(np.diag(inner) @ scale))
            gradient = gradient + variances * np.array(slopes)
        return value, gradient

    bounds = [(-4.0, 4.0)] * len(start)
    result = minimize(objective, np.zeros(len(start)), jac=True, method="L-BFGS-B", bounds=bounds,
                      options={"maxiter": steps})  # fmt: skip
    return np.asarray(np.exp(centre + result.x), float), -float(result.fun)
