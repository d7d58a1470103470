"""The additive part of the surrogate as a mixed-integer linear programme, solved by HiGHS.

One binary per parameter and choice. A switch between two parameters costs unless both take the same label: for every
label that both have, `same <= takes(first)` and `same <= takes(second)`, and the cost falls by `same`. A limit on the
worst drop becomes one row per slice, at the damage at which that slice drops so far; to make the worst drop small, one
variable stands for the largest of the scaled damages.

The columns of a programme's quantities are the objectives 0 to M - 1, minimised, and then the drops of the modelled
slices, M to M + S - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from autotune.search.surrogate.linear import Tables
from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.space import Floats, Ints, Space

NEGLIGIBLE = 1e-4  # switch costs below this share of an objective's span are left to the correction
SMALLEST = 1e-7  # scaled coefficients below count as 0: HiGHS compares with tolerances of this size
LARGEST = 10.0  # scaled damages beyond this one forbid a choice all the same, and keep the numbers well scaled
INFEASIBLE = 2  # HiGHS's status
WIDE = 200_000  # nodes of the branch and bound tree where only the time ends it


@dataclass(frozen=True)
class _Rows:
    """`matrix` (r, V) times the variables is at least `low` and at most `high`."""

    matrix: sparse.csr_matrix
    low: float
    high: float


@dataclass(frozen=True)
class Answer:
    """`config` (L,), None where there is none (`infeasible`) or none was found in time; `gap` to the best bound."""

    config: Ints | None
    gap: float
    infeasible: bool


def quantities(fitted: Fitted, configs: Ints) -> Floats:
    """(n, M + S): predicted objectives, minimised, and drops of the modelled slices."""
    values = fitted.predict(configs)
    return values if fitted.worst is None else np.concatenate([values, fitted.drops(configs)], axis=1)


class Programme:
    """One fit as a programme; solved again and again with other limits."""

    def __init__(self, fitted: Fitted) -> None:
        self.fitted, self.space = fitted, fitted.space
        self.objectives = fitted.objectives
        self.at = np.flatnonzero(self.space.valid)  # flat node numbers of the binaries
        self.column: Ints = np.full(self.space.labels.size, -1, np.int64)
        self.column[self.at] = np.arange(len(self.at))
        switches = {m: _switches(self.space, tables) for m, tables in fitted.additive.items()}
        pairs = np.concatenate([p for p, _ in switches.values()] or [np.zeros((0, 2), np.int64)])
        self.pairs: Ints = np.unique(pairs, axis=0)
        self.price = {m: self._priced(*switches[m]) for m in switches}
        self.same = self._same_labels()  # (W, 3): pair, and flat numbers of both parameters' label
        self.size = len(self.at) + len(self.same)
        self.damage = None if fitted.damage is None else fitted.damage.table.reshape(-1, fitted.damage.table.shape[2])
        self.costs = {m: self._cost(tables, self.price[m]) for m, tables in fitted.additive.items()}
        self.fixed = self._fixed_rows()

    # building ------------------------------------------------------------------------------------------------------
    def _priced(self, pairs: Ints, costs: Floats) -> Floats:
        """Costs in the order of `self.pairs`."""
        price = np.zeros(len(self.pairs))
        for pair, cost in zip(pairs, costs, strict=True):
            price[np.flatnonzero((self.pairs == pair).all(1))[0]] += cost
        return price

    def _same_labels(self) -> Ints:
        labels, rows = self.space.labels, []
        for e, (a, b) in enumerate(self.pairs):
            rows += [(e, a, b, j) for j in sorted(set(labels[a][labels[a] >= 0]) & set(labels[b][labels[b] >= 0]))]
        return np.array(rows, np.int64).reshape(len(rows), 4)

    def _cost(self, tables: Tables, price: Floats) -> tuple[Floats, float]:
        """Coefficients and constant of an additive objective."""
        return np.concatenate([tables.node.ravel()[self.at], -price[self.same[:, 0]]]), tables.constant + price.sum()

    def _takes(self, parameters: Ints, labels: Ints) -> sparse.csr_matrix:
        """(W, N): 1 for every choice of the parameter that has the label."""
        match = self.space.labels[parameters] == labels[:, None]
        row, choice = np.nonzero(match)
        node = parameters[row] * self.space.labels.shape[1] + choice
        return sparse.csr_matrix((np.ones(len(row)), (row, self.column[node])), shape=(len(parameters), len(self.at)))

    def _fixed_rows(self) -> list[_Rows]:
        layer = self.at // self.space.labels.shape[1]
        binaries = len(self.at)
        once = sparse.csr_matrix((np.ones(binaries), (layer, np.arange(binaries))), shape=(len(self.space), self.size))
        rows = [_Rows(once, 1.0, 1.0)]
        if len(self.same):
            first, second = (self._takes(self.same[:, i], self.same[:, 3]) for i in (1, 2))
            own = sparse.identity(len(self.same), format="csr")
            rows += [_Rows(_beside(takes, -own), 0.0, np.inf) for takes in (first, second)]
            gains = np.min(list(self.price.values()), axis=0)[self.same[:, 0]] < 0
            if gains.any():  # a switch that pays must not be claimed where both are the same
                rows.append(_Rows(_beside(first + second, -own)[gains], -np.inf, 1.0))
        return rows

    # solving -------------------------------------------------------------------------------------------------------
    def solve(
        self,
        minimise: int,
        limits: Mapping[int, float],
        *,
        ratio: Floats,
        offset: Floats,
        distances: Sequence[tuple[Ints, int]] = (),
        seconds: float,
        level: float,
        nodes: int = WIDE,
        gap: float,
    ) -> Answer:
        """The least `minimise` within `limits`, both columns of the quantities.

        `ratio` (S,) is by how much the whole model's damage exceeds the additive one, `offset` (M,) the same as a
        difference for additive objectives. `level` is a drop near the worst one, at which slices are compared.
        `distances`: (configuration (L,), in at least how many parameters the answer differs from it).
        """
        cost, has_largest = self._to_minimise(minimise)
        rows = [*self.fixed, *(self._differs(config, apart) for config, apart in distances)]
        for column, limit in limits.items():
            rows.append(self._limit(column, limit, ratio, offset))
        matrix = sparse.csr_matrix(sparse.vstack([row.matrix for row in rows]))
        matrix.data[np.abs(matrix.data) < SMALLEST] = 0.0
        matrix.eliminate_zeros()
        sides = [(np.full(row.matrix.shape[0], row.low), np.full(row.matrix.shape[0], row.high)) for row in rows]
        if has_largest:
            matrix = _beside(matrix, sparse.csr_matrix((matrix.shape[0], 1)))
            largest = self._largest(ratio, level)
            matrix = sparse.csr_matrix(sparse.vstack([matrix, largest.matrix]))
            sides.append((np.full(len(ratio), largest.low), np.full(len(ratio), largest.high)))
        low, high = (np.concatenate(side) for side in zip(*sides, strict=True))
        whole: Ints = (np.arange(len(cost)) < len(self.at)).astype(np.int64)
        upper = np.where(np.arange(len(cost)) < self.size, 1.0, np.inf)
        result = milp(
            cost / (float(np.abs(cost).max()) or 1.0), integrality=whole, bounds=Bounds(0.0, upper),
            constraints=LinearConstraint(matrix, low, high),
            options={"time_limit": max(seconds, 0.05), "node_limit": nodes, "mip_rel_gap": gap},
        )  # fmt: skip
        if result.x is None:
            return Answer(None, np.inf, infeasible=result.status == INFEASIBLE)
        weight = np.full(self.space.labels.size, -1.0)
        weight[self.at] = result.x[: len(self.at)]
        config = weight.reshape(self.space.labels.shape).argmax(1)
        return Answer(config.astype(np.int64), float(result.mip_gap or 0.0), infeasible=False)

    def _to_minimise(self, minimise: int) -> tuple[Floats, bool]:
        """(cost vector, does it have one more variable: the largest of the scaled damages)."""
        if minimise in self.costs:
            return self.costs[minimise][0], False
        if minimise == self.fitted.worst:
            return np.concatenate([np.zeros(self.size), [1.0]]), True
        return np.concatenate([self._slice(minimise - self.objectives), np.zeros(len(self.same))]), False

    def _slice(self, column: int) -> Floats:
        assert self.damage is not None
        return np.asarray(self.damage[self.at, column], float)

    def _limit(self, column: int, limit: float, ratio: Floats, offset: Floats) -> _Rows:
        if column in self.costs:
            cost, constant = self.costs[column]
            scale = float(np.abs(cost).max()) or 1.0
            rest = limit - constant - float(offset[column])
            return _Rows(sparse.csr_matrix(cost / scale), -np.inf, rest / scale)
        worst = column == self.fitted.worst
        slices = range(len(ratio)) if worst else [column - self.objectives]
        at = self._damage_at(limit)
        rows = np.array([np.minimum(self._slice(s) * ratio[s] / at[s], LARGEST) for s in slices])
        padded = np.concatenate([rows, np.zeros((len(rows), len(self.same)))], axis=1)
        return _Rows(sparse.csr_matrix(padded), -np.inf, 1.0)

    def _damage_at(self, drop: float) -> Floats:
        """(S,) damage at which every slice drops by `drop`; nearly none for a drop of 0."""
        assert self.fitted.link is not None
        if drop <= 0:
            return np.full(len(self.fitted.link.gain), 1e-300)
        return np.maximum(self.fitted.link.damage(drop), 1e-300)

    def _largest(self, ratio: Floats, level: float) -> _Rows:
        """Every slice's damage, in units of what makes it drop by `level`, is at most the last variable."""
        at = self._damage_at(level)
        rows = np.array([self._slice(s) * ratio[s] / at[s] for s in range(len(ratio))])
        rows /= max(float(rows.max()), 1e-300)
        padded = np.concatenate([rows, np.zeros((len(rows), len(self.same))), -np.ones((len(rows), 1))], axis=1)
        return _Rows(sparse.csr_matrix(padded), -np.inf, 0.0)

    def _differs(self, config: Ints, apart: int) -> _Rows:
        row = np.zeros(self.size)
        row[self.column[self.space.nodes(config[None])[0]]] = 1.0
        return _Rows(sparse.csr_matrix(row), -np.inf, len(self.space) - apart)


def _beside(left: sparse.csr_matrix, right: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix(sparse.hstack([left, right]))


def _switches(space: Space, tables: Tables) -> tuple[Ints, Floats]:
    """(pairs (E, 2), costs (E,)) of the switches that matter."""
    pairs, costs = np.concatenate([space.edges, tables.pairs]), np.concatenate([tables.edge, tables.far])
    span = float((tables.node.max(1) - tables.node.min(1)).sum())
    keep = np.abs(costs) > NEGLIGIBLE * span
    return pairs[keep].astype(np.int64), costs[keep]
