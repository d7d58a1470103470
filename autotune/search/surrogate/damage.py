"""Damage per configuration and slice: additive over layers, log-additive in what makes a layer's damage.

damage_s(x) = sum_l exp(level_s + label[j] + layer[l] + private[l, s] + node[l, x_l]) + joint_s(x),  j = label(x_l)

Every term has a zero-mean Gaussian prior; `joint` are interactions in pairs of layers (`interactions`). The terms are
the joint maximum a posteriori, the prior scales are chosen by marginal likelihood (`damage_solver`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from autotune.search.surrogate.damage_solver import Solver
from autotune.search.surrogate.damage_terms import Layout, Scales, Terms
from autotune.search.surrogate.interactions import Magnitudes, Weights
from autotune.search.surrogate.space import Bools, Floats, Ints, Space

TINY = 1e-9  # damage below TINY * the largest is none at all
MOST_LEARNT = 250_000  # rows x layers x slices from which the scales are learnt
MOST_FITTED = 350_000  # and to which the terms are fitted: bounds the cost of a fit in large problems
LEAST = 0.1  # of the additive damage is left where interactions are predicted to cancel it


@dataclass(frozen=True)
class DamageFit:
    """A fitted model. `table` (L, K, S) is the damage of every choice in every slice without interactions."""

    space: Space
    table: Floats
    scales: Scales
    magnitudes: tuple[Magnitudes, ...] = ()
    weights: tuple[Weights, ...] = ()

    def predict(self, configs: Ints) -> Floats:
        """Damage (n, S) of configurations (n, L)."""
        base = self.additive(configs)
        return np.maximum(base + self._joint(configs), LEAST * base) if self.weights else base

    def _joint(self, configs: Ints) -> Floats:
        """Damage (n, S) that layers do together."""
        total = np.zeros((len(configs), self.table.shape[2]))
        for magnitudes, weights in zip(self.magnitudes, self.weights, strict=True):
            total += weights.joint(magnitudes, self.space, configs)
        return total

    def near(self, config: Ints, configs: Ints) -> Floats:
        """Damage (n, S) of `configs` (n, L) that differ little from `config` (L,): exact where one layer differs, else
        without what the changed layers do together."""
        flat = self.table.reshape(-1, self.table.shape[2])
        change = flat.copy()
        for magnitudes, weights in zip(self.magnitudes, self.weights, strict=True):
            change += weights.change(magnitudes, self.space, config)
        own = np.repeat(self.space.nodes(config[None])[0], self.table.shape[1])
        both = np.concatenate([change - flat[own], flat - flat[own]], axis=1)
        changed = configs != config
        starts = np.concatenate([[0], changed.sum(1).cumsum()])
        columns = self.space.nodes(configs)[changed]
        moved = sparse.csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(configs), len(flat))) @ both
        whole, additive = np.split(np.asarray(moved), 2, axis=1)
        return np.asarray(
            np.maximum(self.predict(config[None]) + whole, LEAST * (self.additive(config[None]) + additive))
        )

    def additive(self, configs: Ints) -> Floats:
        flat = self.table.reshape(-1, self.table.shape[2])
        nodes = self.space.nodes(configs)
        total = np.zeros((len(configs), flat.shape[1]))
        for column in nodes.T:
            total += flat[column]
        return total


class DamageModel:
    """Fits damage (n, S) of configurations (n, L). `relative` is for a signal with noise in proportion to itself
    (a divergence); otherwise the values are drops, with the noise of counting flips, and may be negative.
    `guess` (L, K, S) is a guessed damage, believed as far as the data agree with its pattern."""

    def __init__(self, space: Space, *, relative: bool, guess: Floats | None = None) -> None:
        self.space = space
        self.relative = relative
        self.guess = None if guess is None else _pattern(guess, space)
        self.scales = self._default()
        self.terms: Terms | None = None

    def _default(self) -> Scales:
        return Scales() if self.relative else replace(Scales(), noise=0.05)

    def fit(self, configs: Ints, values: Floats, *, learn: bool, edges: Ints | None = None) -> DamageFit:
        """With `learn`, from a cold start, then the prior scales are chosen and the terms fitted again; without,
        from the terms and the scales of the last `learn`, which stay as they are. `edges` (E, 2) are the pairs of
        layers that count as neighbours, by default those of the space."""
        keep, alive = self._split(configs, values)
        per_row = len(self.space) * values.shape[1]
        fitted = spread_rows(np.flatnonzero(keep), MOST_FITTED // per_row)
        learn = learn or self.terms is None or self.terms.private.shape[1] != values.shape[1]
        layout = Layout(self.space, values.shape[1], alive, self.guess, _log_level(values[keep], len(self.space)))
        neighbours = self.space.edges if edges is None else edges

        def solver_of(rows: Ints, scales: Scales) -> Solver:
            return Solver(layout, configs[rows], values[rows], relative=self.relative, scales=scales, edges=neighbours)

        if learn:
            rows = spread_rows(fitted, MOST_LEARNT // per_row)
            solver = solver_of(rows, self._default())
            terms = self._learn(solver) if len(rows) else layout.zero()
            if len(rows) < len(fitted):
                solver = solver_of(fitted, solver.scales)
                terms = self._update(solver, terms)
        else:
            assert self.terms is not None
            solver = solver_of(fitted, self.scales)
            terms = self._update(solver, self.terms) if len(fitted) else self.terms
        self.scales, self.terms = solver.scales, terms
        table = layout.table(solver.scales, terms).reshape(*self.space.labels.shape, -1)
        return DamageFit(self.space, table, solver.scales, solver.magnitudes, solver.weights(terms))

    def _learn(self, solver: Solver) -> Terms:
        zero = solver.layout.zero()
        if not self.relative:
            solver.enter(zero)
        terms = solver.solve(zero, steps=12)
        for _ in range(2 if self.relative else 3):
            if not self.relative:
                solver.enter(terms)
            solver.learn_scales(terms)
            terms = solver.solve(zero if self.relative else terms, steps=12)
            if self.relative:
                break
        solver.enter(terms)
        for _ in range(2):
            solver.interact(self._magnitudes(solver, terms))
            solver.learn_scales(terms)
            terms = solver.solve(terms, steps=4)
            solver.enter(terms, solver.joint(terms))
        return solver.solve(terms, steps=3)

    def _update(self, solver: Solver, terms: Terms) -> Terms:
        solver.enter(terms)
        magnitudes = self._magnitudes(solver, terms)
        solver.interact(magnitudes)
        for _ in range(2):
            terms = solver.solve(terms, steps=2)
            solver.enter(terms, solver.joint(terms))
        return terms

    def _magnitudes(self, solver: Solver, terms: Terms) -> tuple[Magnitudes, ...]:
        """By choice, as if all layers were equally sensitive, and by damage; both so that squares are damages."""
        layout = solver.layout
        table = layout.table(solver.scales, terms)
        choice = layout.magnitudes(solver.scales, terms)
        total, plain = table[solver.nodes].sum(1), (choice**2)[solver.nodes].sum(1)
        scale = np.median(total / np.maximum(plain, 1e-300)[:, None], axis=0)
        return Magnitudes(choice[:, None], np.sqrt(scale)), Magnitudes(np.sqrt(table), np.ones(table.shape[1]))

    def _split(self, configs: Ints, values: Floats) -> tuple[Bools, Bools]:
        """Rows to fit, and nodes (L, K) that do any damage: all nodes of a configuration without damage do none."""
        known: Bools = np.asarray(np.isfinite(values).all(1))
        alive = self.space.valid.copy()
        largest = np.abs(np.where(known[:, None], values, 0.0)).max(1, initial=0.0)
        none: Bools = np.asarray(known & (largest <= TINY * largest.max(initial=0.0)))
        if self.relative:
            for config in configs[none]:
                alive[np.arange(len(self.space)), config] = False
            return known & ~none, alive
        return known, alive


def spread_rows(rows: Ints, most: int) -> Ints:
    """At most `most` of `rows`, at least 100: the latest half, which is where the search is, the first quarter, and
    every so many of the rest."""
    most = max(most, 100)
    if len(rows) <= most:
        return rows
    late, first = most // 2, most // 4
    between = np.linspace(first, len(rows) - late, most - late - first, endpoint=False).astype(np.int64)
    return np.concatenate([rows[:first], rows[between], rows[-late:]])


def _log_level(values: Floats, layers: int) -> float:
    positive = values[values > 0]
    return float(np.log((positive.mean() if len(positive) else 1.0) / layers))


def _pattern(guess: Floats, space: Space) -> Floats:
    """(F, S): log of a guessed damage (L, K, S) around its mean over the choices that do any."""
    flat = guess.reshape(-1, guess.shape[2])
    least = 1e-6 * np.maximum(flat.max(0), 1e-300)
    log = np.log(np.maximum(flat, least))
    counted = space.valid.ravel() & (flat > least).any(1)
    return np.asarray(np.where(counted[:, None], log - log[counted].mean(0), 0.0))
