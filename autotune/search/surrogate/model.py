"""The surrogate as a whole: configurations to predicted objectives, and the tables that proposals are solved from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotune.errors import UsageError
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

    def under(self, config: Ints) -> Fitted:
        """The same model with the outer parameters fixed as in `config` (L,): its costs are sums of tables again."""
        weights = self.space.weights(config[None])
        if weights is None:
            return self
        scaled = {m: replace(tables, node=tables.node * weights[0][:, None]) for m, tables in self.additive.items()}
        return replace(self, space=self.space.given(config), additive=scaled)

    def predict(self, configs: Ints) -> Floats:
        """Objectives (n, M), all minimised, of configurations (n, L)."""
        return self._objectives(configs, self.drops(configs) if self.worst is not None else None)

    def predict_near(self, config: Ints, configs: Ints) -> Floats:
        """The same for configurations that differ little from `config` (L,), at a fraction of the cost: what several
        changed layers do together is left out."""
        if self.damage is None or self.link is None:
            return self.predict(configs)
        return self._objectives(configs, self.link.drop(self.damage.near(config, configs)))

    def _objectives(self, configs: Ints, drops: Floats | None) -> Floats:
        values = np.empty((len(configs), self.objectives))
        for m, tables in self.additive.items():
            values[:, m] = tables.predict(self.space, configs)
        if self.worst is not None and drops is not None:
            values[:, self.worst] = drops.max(1)
        return values

    def drops(self, configs: Ints) -> Floats:
        """Drops (n, S) of the modelled slices."""
        assert self.damage is not None and self.link is not None
        return self.link.drop(self.damage.predict(configs))


class Model:
    """Keeps what is learnt seldom (prior scales) between fits of the rest.

    `guess` (objective -> parameter -> choice -> additive contribution, in the objective's own direction) and
    `damage_guess` (parameter -> choice -> slice -> damage) are believed as far as the data agree: their weights are
    learnt, and so is how much each of their entries errs. Raises `UsageError` for a guess that does not fit the space.
    """

    def __init__(
        self,
        space: Space,
        sign: Floats,
        *,
        worst: int | None,
        guess: Mapping[int, Mapping[str, Mapping[Any, float]]] | None = None,
        damage_guess: Mapping[str, Mapping[Any, Mapping[str, float]]] | None = None,
    ) -> None:
        self.space, self.sign, self.worst = space, sign, worst
        guesses = {}
        for m, table in (guess or {}).items():
            if not 0 <= m < len(sign):
                raise UsageError(f"guess: objective {m} does not exist; the study has {len(sign)}, from 0")
            if m == worst:
                raise UsageError(f"guess: objective {m} is the worst drop, which is not additive: give a damage_guess")
            guesses[m] = float(sign[m]) * space.table_of(table, "guess")
        self.linear = {
            m: LinearModel(space, guesses.get(m)) for m in range(len(sign)) if m != worst and m not in space.exact
        }  # fmt: skip
        self._damage_guess = _slice_tables(space, damage_guess or {})
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
        damage, link = None, None
        if self.worst is not None:
            damage, link = self._fit_worst(history, self._edges(additive), learn=learn)
        return Fitted(self.space, additive, self.worst, damage, link, len(self.sign))

    def _edges(self, additive: Mapping[int, Tables]) -> Ints:
        """(E, 2): the space's edges, and the pairs that a cost has shown to be neighbours."""
        found = [linear.likely(additive[m]) for m, linear in self.linear.items()]
        return np.unique(np.concatenate([self.space.edges, *found]), axis=0)

    def _fit_worst(self, history: History, edges: Ints, *, learn: bool) -> tuple[DamageFit, Link]:
        assert self.worst is not None
        drop = history.drop
        damage = _original_does_none(history.damage, drop)
        by_damage = np.isfinite(damage)
        relative = bool(by_damage.any(0).any() and by_damage.any(1).mean() >= 0.5)
        if not relative and not np.isfinite(drop).any():
            drop = history.values[:, [self.worst]]
        if learn or self.damage is None:
            self._slices = _hardest(drop, by_damage if relative else np.isfinite(drop))
            names = [history.slices[i] for i in self._slices] if relative or history.slices else []
            self.damage = DamageModel(self.space, relative=relative, guess=self._guessed(names))
        signal = (damage if self.damage.relative else drop)[:, self._slices]
        fit = self.damage.fit(history.configs, signal, learn=learn, edges=edges)
        if not self.damage.relative:
            return fit, identity(len(self._slices))
        return fit, fit_link(fit.predict(history.configs), drop[:, self._slices])

    def _guessed(self, slices: Sequence[str]) -> Floats | None:
        """(L, K, S) guessed damage; a slice without a guess has the mean of the others'."""
        if not self._damage_guess:
            return None
        mean = np.asarray(np.mean(list(self._damage_guess.values()), axis=0))
        columns: list[Floats] = [self._damage_guess.get(name, mean) for name in slices] or [mean]
        return np.stack(columns, axis=2)


def _slice_tables(space: Space, guess: Mapping[str, Mapping[Any, Mapping[str, float]]]) -> dict[str, Floats]:
    """Slice -> (L, K) guessed damage."""
    slices = dict.fromkeys(s for choices in guess.values() for damages in choices.values() for s in damages)
    tables = {}
    for s in slices:
        table = {name: {c: damages.get(s, 0.0) for c, damages in choices.items()} for name, choices in guess.items()}
        tables[s] = np.maximum(space.table_of(table, "damage_guess"), 0.0)
    return tables


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
