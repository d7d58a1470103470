"""Proposals for one wish: the best configuration within limits.

The linear programme is solved at the limits, and within tighter and looser ones by the model's recent error: what is
predicted to be just inside may be measured as just outside, and the other way round. The answers are distinct, and the
ones with the largest expected constrained improvement are proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from autotune.search.surrogate.milp import Programme, quantities
from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.space import Floats, Ints
from autotune.search.surrogate.within import Question, best_within, inside, promising

MARGINS = (0.0, -1.0, 1.0, -2.0)  # by how many recent errors the limits are loosened
NODES = 50  # of each branch and bound: proposals must not depend on how fast the machine is
AGAIN = 3  # solves to get away from what was measured
APART = 2  # parameters in which the proposals of one batch differ
GAP = 0.01


@dataclass(frozen=True)
class Aim:
    """The least `minimise` within `limits`, columns of the quantities (see `milp`), minimised."""

    minimise: int
    limits: Mapping[int, float]

    def reached(self, values: Floats) -> bool:
        """Is any of the predicted `values` (n, M + S) within all limits?"""
        return bool(inside(values, self.limits).any())

    def corner(self, corner: Floats, values: Floats) -> Floats:
        """The reference point (M,) of the hypervolume with the limits in it; where nothing known is inside, they are
        at what misses them least."""
        corner = corner.copy()
        limited = [m for m in self.limits if m < len(corner)]
        limits = np.array([self.limits[m] for m in limited])
        if limited and not self.reached(values):
            missed = (np.maximum(values[:, limited] - limits, 0) / np.maximum(np.abs(limits), 1e-9)).sum(1)
            limits = np.maximum(limits, 1.05 * values[missed.argmin()][limited])
        corner[limited] = np.minimum(corner[limited], limits)
        return corner


def aimed(
    fitted: Fitted, aim: Aim, errors: Floats, known: Ints, taken: set[bytes], count: int, rng: np.random.Generator
) -> Ints:
    """At most `count` new configurations (count, L).

    `errors` (M + S,) are typical differences of predicted and measured quantities; `known` (n, L) what was measured.
    """
    taken = set(taken)
    found: list[Ints] = []
    for base in promising(fitted, Question(aim.minimise, aim.limits), known):
        programme = Programme(fitted.under(base))
        for margin in MARGINS[: count + 1]:
            config = _at_margin(programme, aim, margin, errors, found, taken, rng)
            if config is not None:
                found.append(config)
                taken.add(config.tobytes())
    if not found:
        return np.empty((0, len(fitted.space)), np.int64)
    configs = np.array(found)
    values = quantities(fitted, known)
    reached = values[inside(values, aim.limits)]
    best = float(reached[:, aim.minimise].min()) if len(reached) else np.inf
    gains = promise(quantities(fitted, configs), aim, errors, best)
    return configs[np.argsort(-gains, kind="stable")[:count]]


def promise(values: Floats, aim: Aim, errors: Floats, best: float) -> Floats:
    """Expected constrained improvement (n,) on `best`; without a best one, the probability of being inside."""
    spread = np.maximum(errors, 1e-12)
    chance = np.ones(len(values))
    for column, limit in aim.limits.items():
        chance *= norm.cdf((limit - values[:, column]) / spread[column])
    if not np.isfinite(best):
        return chance
    sd = spread[aim.minimise]
    z = (best - values[:, aim.minimise]) / sd
    return np.asarray(chance * sd * (z * norm.cdf(z) + norm.pdf(z)))


def _at_margin(
    programme: Programme, aim: Aim, margin: float, errors: Floats, found: list[Ints], taken: set[bytes],
    rng: np.random.Generator,
) -> Ints | None:  # fmt: skip
    """The best new configuration within limits that are loosened by `margin` errors; None where there is none."""
    limits = {column: limit + margin * float(errors[column]) for column, limit in aim.limits.items()}
    near, far = list(found), list[Ints]()
    for _ in range(AGAIN):
        asked = Question(aim.minimise, limits, near, far, apart=APART, nodes=NODES, gap=GAP)
        config = best_within(programme, asked, seconds=np.inf, rng=rng).config
        if config is None or config.tobytes() not in taken:
            return config
        far.append(config)
    return None
