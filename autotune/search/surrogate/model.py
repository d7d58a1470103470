"""The surrogate as a whole: configurations to predicted objectives, and the tables that proposals are solved from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.search.surrogate.damage import DamageFit, DamageModel
from autotune.search.surrogate.history import History
from autotune.search.surrogate.linear import LinearModel, Tables, exact_tables
from autotune.search.surrogate.link import Link, fit_link, identity
from autotune.search.surrogate.space import Floats, Ints, Space

MOST_SLICES = 12  # slices that are modelled: those that drop most; the others hardly ever decide the worst one


@dataclass(frozen=True)
class Fitted:
    """Predictions from one fit. `additive` are the tables of all objectives but the worst-slice one."""

    space: Space
    additive: dict[int, Tables]
    worst: int | None
    damage: DamageFit | None
    link: Link | None
    objectives: int

    def predict(self, configs: Ints) -> Floats:
        """Objectives (n, M), all minimised, of configurations (n, L)."""
        values = np.empty((len(configs), self.objectives))
        for m, tables in self.additive.items():
            values[:, m] = tables.predict(self.space, configs)
        if self.worst is not None:
            values[:, self.worst] = self.drops(configs).max(1)
        return values

    def drops(self, configs: Ints) -> Floats:
        """Drops (n, S) of the modelled slices."""
        assert self.damage is not None and self.link is not None
        return self.link.drop(self.damage.predict(configs))


class Model:
    """Keeps what is learnt seldom (prior scales) between fits of the rest."""

    def __init__(self, space: Space, sign: Floats, *, worst: int | None) -> None:
        self.space, self.sign, self.worst = space, sign, worst
        self.linear = {
            m: LinearModel(space) for m in range(len(sign)) if m != worst and m not in space.exact
        }  # fmt: skip
        self.damage: DamageModel | None = None
        self._slices: Ints = np.zeros(0, np.int64)

    def fit(self, history: History, *, learn: bool) -> Fitted:
        """With `learn` the prior scales are chosen anew from `history`, without they are those of the last time."""
        additive = {}
        for m in range(len(self.sign)):
            if m in self.space.exact and m != self.worst:
                additive[m] = exact_tables(self.space, m, float(self.sign[m]), history.configs, history.values[:, m])
            elif m != self.worst:
                additive[m] = self.linear[m].fit(history.configs, history.values[:, m], learn=learn)
        damage, link = (None, None) if self.worst is None else self._fit_worst(history, learn=learn)
        return Fitted(self.space, additive, self.worst, damage, link, len(self.sign))

    def _fit_worst(self, history: History, *, learn: bool) -> tuple[DamageFit, Link]:
        assert self.worst is not None
        drop = history.drop
        damage = _original_does_none(history.damage, drop)
        by_damage = np.isfinite(damage)
        relative = bool(by_damage.any(0).any() and by_damage.any(1).mean() >= 0.5)
        if not relative and not np.isfinite(drop).any():
            drop = history.values[:, [self.worst]]
        if learn or self.damage is None:
            self._slices = _hardest(drop, by_damage if relative else np.isfinite(drop))
            self.damage = DamageModel(self.space, relative=relative)
        signal = (damage if self.damage.relative else drop)[:, self._slices]
        fit = self.damage.fit(history.configs, signal, learn=learn)
        if not self.damage.relative:
            return fit, identity(len(self._slices))
        return fit, fit_link(fit.predict(history.configs), drop[:, self._slices])


def _original_does_none(damage: Floats, drop: Floats) -> Floats:
    """Damage, 0 where it was not measured and every slice drops by exactly 0: that is the original itself."""
    itself = np.isnan(damage).all(1) & (drop == 0).any(1) & ((drop == 0) | np.isnan(drop)).all(1)
    return np.where(itself[:, None], 0.0, damage)


def _hardest(drop: Floats, known: Floats) -> Ints:
    """Columns with a signal, at most `MOST_SLICES`: those with the largest mean drop."""
    columns = np.flatnonzero(known.any(0))
    if len(columns) <= MOST_SLICES:
        return columns
    sums = np.where(np.isfinite(drop), drop, 0.0).sum(0) / np.maximum(np.isfinite(drop).sum(0), 1)
    return np.sort(columns[np.argsort(-sums[columns], kind="stable")[:MOST_SLICES]])
