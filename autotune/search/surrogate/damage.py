"""Log-additive damage per layer, choice and slice, with hierarchical Gaussian priors.

damage_s(x) = exp(h_s(x)) sum_l exp(level_s + label[j] + layer[l] + private[l, s] + node[l, x_l]),  j = label(x_l)

Every term has a zero-mean Gaussian prior; h is a Gaussian process over products of neighbouring and of all pairs of
layers' error magnitudes (errors add before they are squared, so damages interact in pairs). The terms are the joint
maximum a posteriori, by Gauss-Newton on the logarithm of the damage with conjugate gradients inside; the prior
scales are chosen by marginal likelihood of the linearised model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve

from autotune.search.surrogate.evidence import fit_amplitudes
from autotune.search.surrogate.space import Bools, Floats, Ints, Space

TINY = 1e-9  # damage below TINY * the largest is none at all
FLOOR = 0.01  # share of the largest drop that acts as a noise floor where drops stand in for damage
EVIDENCE_ROWS = 200
EVIDENCE_SLICES = 6


@dataclass(frozen=True)
class Scales:
    """Standard deviations of the terms, in units of log damage; a start, then learnt."""

    level: float = 1.5
    label: float = 2.0
    layer: float = 1.0
    private: float = 0.8
    node: float = 0.5
    neighbours: float = 0.1
    pairs: float = 0.1
    noise: float = 0.08

    @property
    def spread(self) -> float:
        """Variance of a single log damage around its level and label."""
        return self.layer**2 + self.private**2 + self.node**2


@dataclass(frozen=True)
class Terms:
    """Standardised terms (prior N(0, 1)): `level` (S,), `label` (C,), `layer` (L,), `private` (L, S), `node` (L, K)."""

    level: Floats
    label: Floats
    layer: Floats
    private: Floats
    node: Floats

    def pack(self) -> Floats:
        return np.concatenate([self.level, self.label, self.layer, self.private.ravel(), self.node.ravel()])


@dataclass
class DamageFit:
    """A fitted model. `table` (L, K, S) is the damage of every choice in every slice without interactions."""

    space: Space
    table: Floats
    magnitude: Floats
    scales: Scales
    configs: Ints
    alpha: Floats

    def predict(self, configs: Ints) -> Floats:
        """Damage (n, S) of configurations (n, L)."""
        base = self.additive(configs)
        if not len(self.configs):
            return base
        neighbours, pairs = interaction_kernels(self.magnitude, self.space, configs, self.configs)
        kernel = self.scales.neighbours**2 * neighbours + self.scales.pairs**2 * pairs
        return base * np.exp(np.clip(kernel @ self.alpha, -2.0, 2.0))

    def additive(self, configs: Ints) -> Floats:
        flat = self.table.reshape(-1, self.table.shape[2])
        nodes = self.space.nodes(configs)
        total = np.zeros((len(configs), flat.shape[1]))
        for column in nodes.T:
            total += flat[column]
        return total


def interaction_kernels(magnitude: Floats, space: Space, left: Ints, right: Ints) -> tuple[Floats, Floats]:
    """Kernels (n, m) over products of error magnitudes: of neighbours in the chain, and of all pairs."""
    a, b = (_unit_rows(magnitude.ravel()[space.nodes(x)]) for x in (left, right))
    pairs = (a @ b.T) ** 2 - (a**2) @ (b**2).T
    neighbours = len(space) * ((a[:, 1:] * a[:, :-1]) @ (b[:, 1:] * b[:, :-1]).T)
    return neighbours, pairs


def _unit_rows(rows: Floats) -> Floats:
    norm = np.sqrt((rows**2).sum(1, keepdims=True))
    return rows / np.where(norm > 0, norm, 1.0)


class DamageModel:
    """Fits damage (n, S) of configurations (n, L). `relative` is for a signal with noise in proportion to itself
    (a divergence); otherwise the values are drops, with the noise of counting flips, and may be negative."""

    def __init__(self, space: Space, *, relative: bool) -> None:
        self.space = space
        self.relative = relative
        self.scales = Scales() if relative else replace(Scales(), noise=0.05)
        self.terms: Terms | None = None
        self.magnitude: Floats | None = None

    def fit(self, configs: Ints, values: Floats, *, learn: bool) -> DamageFit:
        """With `learn`, from a cold start, then the prior scales are chosen and the terms fitted again; without,
        from the terms and the scales of the last `learn`, which stay as they are."""
        keep, alive = self._split(configs, values)
        problem = _Problem(self, configs[keep], values[keep], alive)
        if learn or self.terms is None or self.terms.private.shape[1] != values.shape[1]:
            self.scales = Scales() if self.relative else replace(Scales(), noise=0.05)
            self.magnitude = None
            start = problem.solve(problem.zero(), steps=12)
            self.scales = problem.learn_scales(start)
            self.terms = problem.solve(problem.zero(), steps=12)
            self.magnitude = problem.magnitudes(self.terms)
            self.scales = problem.learn_scales(self.terms)
            self.terms = problem.solve(self.terms, steps=4)
            terms = self.terms
        else:
            terms = problem.solve(self.terms, steps=3)
        return problem.result(terms)

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


class _Problem:
    """One least-squares problem: rows, whitening, Jacobian products."""

    def __init__(self, model: DamageModel, configs: Ints, values: Floats, alive: Bools) -> None:
        self.model, self.space, self.configs, self.values = model, model.space, configs, values
        self.alive = alive.ravel()
        layers, width = alive.shape
        n = len(configs)
        self.nodes = self.space.nodes(configs)
        row = np.arange(n * layers)
        self.gather = sparse.csr_matrix(
            (np.ones(n * layers), (row, self.nodes.ravel())), shape=(n * layers, layers * width)
        )
        self.scatter = self.gather.T.tocsr()
        self.label_of = np.where(self.space.valid, self.space.labels, 0).ravel()
        self.layer_of = np.repeat(np.arange(layers), width)
        positive = np.where(values > 0, values, np.nan)
        with np.errstate(invalid="ignore"):
            total = np.nanmean(positive) if np.isfinite(positive).any() else 1.0
        self.log_level = float(np.log(total / layers))
        self.floor = FLOOR * float(np.nanmax(np.abs(values), initial=0.0)) + 1e-12

    # terms <-> tables ----------------------------------------------------------------------------------------------
    def zero(self) -> Terms:
        layers, width = self.space.labels.shape
        slices = self.values.shape[1]
        return Terms(np.zeros(slices), np.zeros(len(self.space.label_names)), np.zeros(layers),
                     np.zeros((layers, slices)), np.zeros((layers, width)))  # fmt: skip

    def unpack(self, vector: Floats) -> Terms:
        like = self.zero()
        parts = []
        at = 0
        for part in (like.level, like.label, like.layer, like.private, like.node):
            parts.append(vector[at : at + part.size].reshape(part.shape))
            at += part.size
        return Terms(*parts)

    def spread(self, terms: Terms) -> Floats:
        """(F, S): the change in log damage of every node."""
        scales = self.model.scales
        shared = scales.label * terms.label[self.label_of] + scales.layer * terms.layer[self.layer_of]
        shared = shared + scales.node * terms.node.ravel()
        return shared[:, None] + scales.level * terms.level + scales.private * terms.private[self.layer_of]

    def collect(self, table: Floats) -> Floats:
        """The transpose of `spread`, packed."""
        scales = self.model.scales
        table = table * self.alive[:, None]
        layers, width = self.space.labels.shape
        shared = table.sum(1)
        by_layer = table.reshape(layers, width, -1).sum(1)
        return Terms(
            scales.level * table.sum(0),
            scales.label * np.asarray(np.bincount(self.label_of, shared, len(self.space.label_names)), float),
            scales.layer * by_layer.sum(1),
            scales.private * by_layer,
            scales.node * shared,
        ).pack()

    def table(self, terms: Terms) -> Floats:
        """(F, S) damages."""
        log = self.log_level - self.model.scales.spread / 2 + self.spread(terms)
        return np.asarray(np.exp(np.clip(log, -60.0, 40.0)) * self.alive[:, None])

    # residuals -----------------------------------------------------------------------------------------------------
    def evaluate(self, terms: Terms) -> tuple[Floats, Floats, Floats]:
        """Residuals (n, S) in log damage, each layer's share (n, L, S), and the scale (n, S) of the noise variance."""
        n, layers = self.configs.shape
        parts = (self.gather @ self.table(terms)).reshape(n, layers, -1)
        total = np.maximum(parts.sum(1), 1e-300)
        if self.model.relative:
            residual = np.log(np.maximum(self.values, 1e-300)) - np.log(total)
            return np.clip(residual, -6, 6), parts / total[:, None], np.ones_like(total)
        safe = np.maximum(total, self.floor)
        return (self.values - total) / safe, parts / safe[:, None], (total + self.floor) / safe**2

    def precision(self, noise: Floats) -> Floats:
        """Inverse covariances (1 or S, n, n) of the residuals: noise plus interactions."""
        scales = self.model.scales
        n = len(self.configs)
        common = np.zeros((n, n))
        if self.model.magnitude is not None:
            neighbours, pairs = interaction_kernels(self.model.magnitude, self.space, self.configs, self.configs)
            common = scales.neighbours**2 * neighbours + scales.pairs**2 * pairs
        columns = noise.T[:1] if self.model.relative else noise.T
        inverses = []
        for column in columns:
            covariance = common + np.diag(scales.noise**2 * column)
            inverses.append(cho_solve(cho_factor(covariance, lower=True), np.eye(n)))
        return np.array(inverses)

    def solve(self, terms: Terms, *, steps: int) -> Terms:
        """Gauss-Newton with a halving line search."""
        if not len(self.configs):
            return terms
        theta = terms.pack()
        residual, share, noise = self.evaluate(terms)
        inverse = self.precision(noise)
        for _ in range(steps):
            if not self.model.relative:
                inverse = self.precision(noise)
            step = self._newton_step(theta, residual, share, inverse)
            before = self._objective(theta, residual, inverse)
            size = min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
            for _ in range(6):
                trial = self.unpack(theta + size * step)
                residual, share, noise = self.evaluate(trial)
                if self._objective(theta + size * step, residual, inverse) <= before:
                    break
                size /= 2
            theta = theta + size * step
            if float(np.abs(size * step).max()) < 0.02:
                break
        return self.unpack(theta)

    def _objective(self, theta: Floats, residual: Floats, inverse: Floats) -> float:
        return 0.5 * float(theta @ theta) + 0.5 * float((residual * _apply(inverse, residual)).sum())

    def _newton_step(self, theta: Floats, residual: Floats, share: Floats, inverse: Floats) -> Floats:
        n, layers = self.configs.shape

        def forward(vector: Floats) -> Floats:
            change = (self.gather @ self.spread(self.unpack(vector))).reshape(n, layers, -1)
            return np.asarray(np.einsum("nls,nls->ns", share, change))

        def backward(rows: Floats) -> Floats:
            return self.collect(np.asarray(self.scatter @ (share * rows[:, None]).reshape(n * layers, -1)))

        gradient = backward(_apply(inverse, residual)) - theta
        return _conjugate_gradients(lambda v: v + backward(_apply(inverse, forward(v))), gradient)

    # scales --------------------------------------------------------------------------------------------------------
    def magnitudes(self, terms: Terms) -> Floats:
        """(L, K) error magnitude of a choice relative to its layer: the root of its damage."""
        scales = self.model.scales
        log = scales.label * terms.label[self.label_of] + scales.node * terms.node.ravel()
        log = np.where(self.alive, log, -np.inf)
        return np.asarray(np.exp((log - log.max()) / 2).reshape(self.space.labels.shape))

    def learn_scales(self, terms: Terms) -> Scales:
        """Prior scales by marginal likelihood of the model linearised at `terms`, slices taken as independent."""
        if len(self.configs) < 8:
            return self.model.scales
        scales = self.model.scales
        rows = slice(max(0, len(self.configs) - EVIDENCE_ROWS), None)
        residual, share, noise = self.evaluate(terms)
        change = (self.gather @ self.spread(terms)).reshape(*share.shape)
        target = (residual + np.einsum("nls,nls->ns", share, change))[rows]
        share, nodes, noise = share[rows], self.nodes[rows], noise[rows]
        n = len(target)
        interactions: list[Floats] = []
        if self.model.magnitude is not None:
            kept = self.configs[rows]
            interactions = list(interaction_kernels(self.model.magnitude, self.space, kept, kept))
        chosen = range(min(target.shape[1], EVIDENCE_SLICES))
        kernels = []
        for s in chosen:
            weight = np.zeros((n, self.alive.size))
            np.put_along_axis(weight, nodes, share[:, :, s], axis=1)
            weight *= self.alive
            label = np.zeros((n, len(self.space.label_names)))
            np.add.at(label.T, self.label_of, weight.T)
            kernels.append([np.ones((n, n)), label @ label.T, share[:, :, s] @ share[:, :, s].T, weight @ weight.T,
                            *interactions])  # fmt: skip
        layer = float(np.hypot(scales.layer, scales.private))
        default = Scales()
        names = [default.level, default.label, layer, default.node]
        names += [default.neighbours, default.pairs] if interactions else []
        start = np.array([*names, Scales().noise if self.model.relative else 0.05])
        found, _ = fit_amplitudes(kernels, [target[:, s] for s in chosen], start, noise=[noise[:, s] for s in chosen],
                               steps=15)  # fmt: skip
        factor = float(found[2]) / layer
        learnt = replace(scales, level=float(found[0]), label=float(found[1]), layer=scales.layer * factor,
                         private=scales.private * factor, node=float(found[3]), noise=float(found[-1]))  # fmt: skip
        if interactions:
            learnt = replace(learnt, neighbours=float(found[4]), pairs=float(found[5]))
        return learnt

    def result(self, terms: Terms) -> DamageFit:
        residual, _, noise = self.evaluate(terms)
        layers, width = self.space.labels.shape
        table = self.table(terms).reshape(layers, width, -1)
        magnitude = self.model.magnitude
        if magnitude is None or not len(self.configs):
            empty = np.zeros((0, layers), np.int64)
            return DamageFit(self.space, table, np.zeros((layers, width)), self.model.scales, empty,
                             np.zeros((0, table.shape[2])))  # fmt: skip
        alpha = _apply(self.precision(noise), residual)
        return DamageFit(self.space, table, magnitude, self.model.scales, self.configs, alpha)


def _apply(inverse: Floats, rows: Floats) -> Floats:
    """Inverse covariances (1 or S, n, n) times residuals (n, S)."""
    if len(inverse) == 1:
        return np.asarray(inverse[0] @ rows)
    return np.asarray(np.einsum("snm,ms->ns", inverse, rows))


def _conjugate_gradients(
    apply: Callable[[Floats], Floats], right: Floats, *, steps: int = 60, tolerance: float = 1e-3
) -> Floats:
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    norm = float(residual @ residual)
    target = tolerance**2 * norm
    for _ in range(steps):
        if norm <= target or norm == 0.0:
            break
        product = apply(direction)
        size = norm / float(direction @ product)
        solution += size * direction
        residual -= size * product
        following = float(residual @ residual)
        direction = residual + (following / norm) * direction
        norm = following
    return solution
