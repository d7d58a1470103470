"""What each choice in each layer contributes, read off a study of whole models: additive fits with priors.

Rows are models, `x[i, l, c]` is 1 where model `i` takes choice `c` in layer `l`; all models keep the rest as it is.
Both fits are of the size of the rows: thousands of layers times choices cost nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[np.float64]

MOST_ROWS = 400
_STEPS = 12  # of Gauss and Newton
_LONGEST = 1.5  # of a step, in natural logarithms
_NOISE = 0.2  # of a logarithm of damage: interactions between layers
_LAYER, _CELL, _CHOICE = 1.0, 0.6, 1.0  # prior spread of log damage: of a layer, of one choice in it, of a choice


def cost_fit(x: Floats, y: Floats, share: Floats) -> Floats:
    """Contributions (L, C) to a cost, as shares of the original's, from `y` (n,): relative change of each model.

    `share` (L,) is about how much of the cost each layer has. A contribution is the layer's share times what its choice
    does on average, plus a deviation; both have normal priors, whose scales are picked by evidence. A constant, which
    all models may have in common, is left out.
    """
    n, layers, choices = x.shape
    weighted = x * share[None, :, None]
    common = [weighted[:, :, c].sum(1) for c in range(choices)]
    between = sum((np.outer(v, v) for v in common), np.zeros((n, n)))
    flat = weighted.reshape(n, layers * choices)
    within = flat @ flat.T
    best: tuple[float, float, Floats] | None = None
    for deviation, noise in itertools.product((0.1, 0.3, 1.0), (0.005, 0.02, 0.08)):
        covariance = 0.25 * between + deviation**2 * within + 0.01 + noise**2 * np.eye(n)
        factor = cho_factor(covariance, lower=True)
        alpha = cho_solve(factor, y)
        evidence = -0.5 * float(y @ alpha) - float(np.log(np.diag(factor[0])).sum())
        if best is None or evidence > best[0]:
            best = evidence, deviation, alpha
    assert best is not None  # the grid is not empty
    _, deviation, alpha = best
    average = np.array([0.25 * float(v @ alpha) for v in common])
    deviations = deviation**2 * np.einsum("nlc,n->lc", weighted, alpha)
    return np.asarray(share[:, None] * (average[None, :] + deviations))


def damage_fit(x: Floats, y: Floats) -> Floats:
    """Damage (L, C, S) of each choice in each layer, positive, so that they add up to `y` (n, S) of each model.

    Normal priors on the logarithms, around what one layer has on average; each slice is fitted by itself. NaN in `y`
    is unknown. A slice without any known value has NaN.
    """
    layers, choices = x.shape[1:]
    found = np.full((layers, choices, y.shape[1]), np.nan)
    for s in range(y.shape[1]):
        known = np.isfinite(y[:, s]) & (x.sum((1, 2)) > 0)
        if known.any():
            found[:, :, s] = np.exp(_log_fit(x[known], y[known, s]))
    return found


def _log_fit(x: Floats, y: Floats) -> Floats:
    """Logarithms (L, C): the most probable ones, by damped Gauss-Newton steps in the space of the rows."""
    target = np.log(np.maximum(y, max(float(y.max()) * 1e-7, 1e-12)))
    # On average a layer has its share of what a model loses; the geometric mean is less, as the spread is wide.
    centre = float(np.median(target - np.log(x.sum((1, 2))))) - 0.5 * (_LAYER**2 + _CELL**2)
    mean = np.full(x.shape[1:], centre)
    current = mean.copy()
    for _ in range(_STEPS):
        parts = x * np.exp(current)[None]
        total = parts.sum((1, 2))
        jacobian = parts / total[:, None, None]
        spread = (
            _LAYER**2 * jacobian.sum(2, keepdims=True)
            + _CELL**2 * jacobian
            + _CHOICE**2 * jacobian.sum(1, keepdims=True)
        )
        covariance = np.einsum("ilc,jlc->ij", jacobian, spread) + _NOISE**2 * np.eye(len(y))
        residual = target - np.log(total) + np.einsum("ilc,lc->i", jacobian, current - mean)
        wanted = mean + np.einsum("ilc,i->lc", spread, cho_solve(cho_factor(covariance, lower=True), residual))
        step = np.clip(wanted - current, -_LONGEST, _LONGEST)
        current = current + step
        if float(np.abs(step).max()) < 1e-3:
            break
    return np.asarray(current)
