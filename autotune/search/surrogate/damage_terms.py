"""The terms of the log-additive damage model, their prior scales, and tables (F, S) from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.search.surrogate.space import Bools, Floats, Space


@dataclass(frozen=True)
class Scales:
    """Standard deviations of the terms, in units of log damage; a start, then learnt. The last five are relative to
    the additive damage: interactions of neighbours and of all pairs, by choice and by damage, and the noise."""

    level: float = 1.5
    label: float = 2.0
    layer: float = 1.0
    private: float = 0.8
    node: float = 0.5
    guess: float = 1.0
    near_choice: float = 0.03
    far_choice: float = 0.03
    near_damage: float = 0.1
    far_damage: float = 0.1
    noise: float = 0.08

    @property
    def spread(self) -> float:
        """Variance of a single log damage around its level and label."""
        return self.layer**2 + self.private**2 + self.node**2


@dataclass(frozen=True)
class Terms:
    """Standardised terms (prior N(0, 1)): `level` (S,), `label` (C,), `layer` (L,), `private` (L, S), `node` (L, K),
    `guess` (1,)."""

    level: Floats
    label: Floats
    layer: Floats
    private: Floats
    node: Floats
    guess: Floats

    def parts(self) -> tuple[Floats, ...]:
        return self.level, self.label, self.layer, self.private, self.node, self.guess

    def pack(self) -> Floats:
        return np.concatenate([part.ravel() for part in self.parts()])


class Layout:
    """Where the terms act. `alive` (L, K) are the nodes that do any damage; `guess` (F, S) is a guessed pattern of
    log damage, or None."""

    def __init__(self, space: Space, slices: int, alive: Bools, guess: Floats | None, log_level: float) -> None:
        self.space, self.slices, self.guess, self.log_level = space, slices, guess, log_level
        self.alive = alive.ravel()
        self.label_of = np.where(space.valid, space.labels, 0).ravel()
        self.layer_of = np.repeat(np.arange(len(space)), space.labels.shape[1])
        self._shapes = [part.shape for part in self.zero().parts()]
        self._ends = np.cumsum([part.size for part in self.zero().parts()])[:-1]

    def zero(self) -> Terms:
        layers, width = self.space.labels.shape
        return Terms(np.zeros(self.slices), np.zeros(len(self.space.label_names)), np.zeros(layers),
                     np.zeros((layers, self.slices)), np.zeros((layers, width)), np.zeros(1))  # fmt: skip

    def unpack(self, vector: Floats) -> Terms:
        parts = np.split(vector, self._ends)
        return Terms(*(part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)))

    def spread(self, scales: Scales, terms: Terms) -> Floats:
        """(F, S): the change in log damage of every node."""
        shared = scales.label * terms.label[self.label_of] + scales.layer * terms.layer[self.layer_of]
        shared = shared + scales.node * terms.node.ravel()
        change = shared[:, None] + scales.level * terms.level + scales.private * terms.private[self.layer_of]
        if self.guess is not None:
            change = change + scales.guess * terms.guess * self.guess
        return np.asarray(change)

    def collect(self, scales: Scales, table: Floats) -> Floats:
        """The transpose of `spread`, packed."""
        table = table * self.alive[:, None]
        layers, width = self.space.labels.shape
        shared = table.sum(1)
        by_layer = table.reshape(layers, width, -1).sum(1)
        guess = 0.0 if self.guess is None else float((self.guess * table).sum())
        return Terms(
            scales.level * table.sum(0),
            scales.label * np.asarray(np.bincount(self.label_of, shared, len(self.space.label_names)), float),
            scales.layer * by_layer.sum(1),
            scales.private * by_layer,
            scales.node * shared,
            np.array([scales.guess * guess]),
        ).pack()

    def table(self, scales: Scales, terms: Terms) -> Floats:
        """(F, S) damages."""
        log = self.log_level - scales.spread / 2 + self.spread(scales, terms)
        return np.asarray(np.exp(np.clip(log, -60.0, 40.0)) * self.alive[:, None])

    def magnitudes(self, scales: Scales, terms: Terms) -> Floats:
        """(F,) error magnitude of a choice, whatever its layer: the root of its damage, at most 1."""
        log = scales.label * terms.label[self.label_of] + scales.node * terms.node.ravel()
        log = np.where(self.alive, log, -np.inf)
        return np.asarray(np.exp((log - log.max()) / 2))
