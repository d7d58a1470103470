"""From damage, a continuous signal, to the measured drop per slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from autotune.search.surrogate.space import Floats

FLOOR = 0.01  # share of the largest drop at which the noise of counting flips stops falling


@dataclass(frozen=True)
class Link:
    """drop_s = ceiling (1 - exp(-(gain_s damage)^power / ceiling)); slices share the ceiling and the power."""

    gain: Floats
    power: float
    ceiling: float

    def drop(self, damage: Floats) -> Floats:
        """Drops of the shape of `damage` (..., S)."""
        rate = (self.gain * np.maximum(damage, 0.0)) ** self.power
        return np.asarray(self.ceiling * -np.expm1(-rate / self.ceiling))

    def damage(self, drop: float) -> Floats:
        """Damage (S,) at which each slice drops by `drop`, held below the ceiling."""
        inside = min(drop / self.ceiling, 0.95)
        return np.asarray((-self.ceiling * np.log1p(-inside)) ** (1 / self.power) / self.gain)


def identity(slices: int) -> Link:
    """For damage that is the drop itself."""
    return Link(np.ones(slices), 1.0, 1e6)


def fit_link(damage: Floats, drop: Floats) -> Link:
    """Maximum a posteriori of the link for modelled `damage` and measured `drop`, both (n, S); NaN is left out.

    Priors: gains log-normal around a common one (sd 0.5), power around 1 (sd 0.25), ceiling around twice the largest
    drop (sd 1).
    """
    slices = damage.shape[1]
    known = np.isfinite(drop) & np.isfinite(damage) & (damage > 0)
    if known.sum() < 3 or np.nanmax(drop[known]) <= 0:
        return Link(np.ones(slices), 1.0, 1e6)
    top = float(np.max(drop[known]))
    ratio = drop[known].sum() / damage[known].sum()
    centre = np.log(max(ratio, 1e-12 / max(float(damage[known].max()), 1e-300)))
    floor = FLOOR * top

    def unpack(theta: Floats) -> Link:
        gain = np.exp(np.clip(centre + theta[2] + 0.5 * theta[3:], -80, 80))
        return Link(gain, float(np.exp(0.25 * theta[0])), float(2 * top * np.exp(np.clip(theta[1], -3, 6))))

    theta = np.zeros(slices + 3)
    for _ in range(2):
        current = unpack(theta).drop(damage)
        weight = np.where(known, 1 / np.sqrt(np.maximum(current, 0) + floor), 0.0)
        spread = float(np.median(np.abs((np.where(known, drop, 0) - current) * weight)[known])) * 1.48
        weight = weight / max(spread, 1e-3 * np.sqrt(top))
        theta = _solve(unpack, theta, damage, np.where(known, drop, 0.0), weight)
    return unpack(theta)


def _solve(unpack: Callable[[Floats], Link], theta: Floats, damage: Floats, drop: Floats, weight: Floats) -> Floats:
    prior = np.ones(len(theta))
    prior[2] = 0.2  # the common gain is hardly known beforehand

    def residuals(vector: Floats) -> Floats:
        misfit = (unpack(vector).drop(damage) - drop) * weight
        return np.concatenate([misfit.ravel(), prior * vector])

    result = least_squares(residuals, theta, loss="linear", max_nfev=15)
    return np.asarray(result.x, float)
