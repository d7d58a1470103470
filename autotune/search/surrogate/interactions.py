"""Damage that layers do together: Gaussian processes over products of two layers' error magnitudes.

Errors add before they are squared, so damage has terms in pairs of layers, positive or negative. Each is a product of
two magnitudes with an unknown weight per pair and slice. The weights have a common prior variance, which makes the sum
of all a Gaussian process; its mean is kept as explicit weights, so a prediction costs no kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.search.surrogate.space import Floats, Ints, Space

LONG = 48  # layers from which on the weights of all pairs are kept in low rank
RANK = 24
RANK_TIMES_LAYERS = 1600  # of longer networks, per slice: a prediction costs that many products


@dataclass(frozen=True)
class Magnitudes:
    """Error magnitudes of every choice, flat (F, S or 1), times `scale` (S,): their squares are damages."""

    table: Floats
    scale: Floats

    def rows(self, space: Space, configs: Ints) -> Floats:
        """(S or 1, n, L) magnitudes of configurations, without the scale."""
        return np.ascontiguousarray(self.table.T)[:, space.nodes(configs)]


def kernels(rows: Floats, edges: Ints) -> tuple[Floats, Floats]:
    """Covariances (n, n) of the sums over neighbours and over all pairs, for magnitudes (n, L), at weights of variance
    L and 1: both are about the square of the additive damage."""
    squares = rows**2
    pairs = (rows @ rows.T) ** 2 - squares @ squares.T
    joint = rows[:, edges[:, 0]] * rows[:, edges[:, 1]]
    return np.asarray(rows.shape[1] * (joint @ joint.T)), np.asarray(pairs)


@dataclass(frozen=True)
class Weights:
    """Posterior mean of the weights: `near` (E, S) for the neighbours `edges` (E, 2); for all pairs, per slice, a
    `factor` (L, R) and a `sign` (R,): factor diag(sign) factor.T without its diagonal."""

    edges: Ints
    near: Floats
    factor: Floats
    sign: Floats

    def joint(self, magnitudes: Magnitudes, space: Space, configs: Ints) -> Floats:
        """Damage (n, S) that layers do together."""
        nodes = np.ascontiguousarray(space.nodes(configs).T)
        columns = np.ascontiguousarray(magnitudes.table.T)
        slices = len(self.factor)
        total = np.empty((len(configs), slices))
        for s in range(slices):
            if s < len(columns):  # layers in rows: whole rows are gathered for the edges
                of_slice = columns[s][nodes]
                joint = of_slice[self.edges[:, 0]] * of_slice[self.edges[:, 1]]
                squares = of_slice**2
            factor, sign = self.factor[s], self.sign[s]
            own = (factor**2) @ sign  # the diagonal: a layer is no pair with itself
            total[:, s] = self.near[:, s] @ joint + sign @ (factor.T @ of_slice) ** 2 - own @ squares
        return np.asarray(total * magnitudes.scale**2)

    def change(self, magnitudes: Magnitudes, space: Space, config: Ints) -> Floats:
        """(F, S): by how much the damage that layers do together changes when one layer of `config` (L,) takes another
        choice. Exact: the damage is linear in the magnitude of each layer."""
        table = magnitudes.table.reshape(*space.labels.shape, -1)
        first, second = self.edges.T
        found = np.empty((*space.labels.shape, len(self.factor)))
        for s in range(len(self.factor)):
            of_slice = table[:, :, min(s, table.shape[2] - 1)]
            own = of_slice[np.arange(len(space)), config]
            factor, sign = self.factor[s], self.sign[s]
            slope = 2 * (factor @ (sign * (factor.T @ own)) - (factor**2 @ sign) * own)
            slope += np.bincount(first, self.near[:, s] * own[second], len(space))
            slope += np.bincount(second, self.near[:, s] * own[first], len(space))
            found[:, :, s] = (of_slice - own[:, None]) * slope[:, None]
        return np.asarray((found * magnitudes.scale**2).reshape(-1, len(self.factor)))


def posterior_weights(magnitudes: Magnitudes, rows: Floats, edges: Ints, pull: Floats, near: float, far: float
                      ) -> Weights:  # fmt: skip
    """Weights from magnitudes (S or 1, n, L) and `pull` (n, S), the solved residuals per unit of damage; `near` and
    `far` are standard deviations."""
    layers, slices = rows.shape[2], pull.shape[1]
    rank = layers if layers <= LONG else max(min(RANK, RANK_TIMES_LAYERS // layers), 1)
    edge = np.zeros((len(edges), slices))
    factors, signs = np.zeros((slices, layers, rank)), np.zeros((slices, rank))
    for s in range(slices):
        row, force = rows[min(s, len(rows) - 1)], pull[:, s] * magnitudes.scale[s] ** 2
        joint = row[:, edges[:, 0]] * row[:, edges[:, 1]]
        edge[:, s] = near**2 * layers * (joint.T @ force)
        weights = far**2 * (row.T @ (row * force[:, None]))
        np.fill_diagonal(weights, 0.0)
        value, vector = np.linalg.eigh(weights)
        kept = np.argsort(-np.abs(value))[:rank]
        factors[s] = vector[:, kept] * np.sqrt(np.abs(value[kept]))
        signs[s] = np.sign(value[kept])
    return Weights(edges, edge, factors, signs)
