"""A Bayesian linear model of an additive cost (latency, memory, energy) over a network of layers.

cost(x) = constant + sum_l node[l, x_l] w_l(x) + sum_e edge[e] [label(x_a) != label(x_b)], e = (a, b)
          + the same over pairs of layers that turned out to be neighbours

w_l is 1 but for parameters that others scale (`Space.outer`). The table entries are jointly Gaussian: their covariance
is a sum of groups (what a label does on average, what a layer does, what is left; equal over layers or in proportion to
the layers' share of the exactly known objectives; switches between neighbours; a guess), and the data choose the weight
of each group by marginal likelihood. Pairs that are not among the space's edges take part where the evidence wants them
(`pairs`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.linalg import cho_solve

from autotune.search.surrogate.covariance import factorised
from autotune.search.surrogate.evidence import ROWS, fit_amplitudes
from autotune.search.surrogate.outliers import noise_factors
from autotune.search.surrogate.space import Floats, Ints, Space

NOISE = 0.25  # default noise of a measured cost, in units of the observed spread
MOST_PAIRS = 2000  # pairs beside the edges whose switches are considered
FEWEST_FOR_PAIRS = 30  # measurements
PAIRS_MATTER = 3.0  # gain in log evidence from which on they take part
SWITCH = 0.1  # default weight of a switch relative to a node
SPARSER = 1  # reweightings
STRONG = 0.02  # of the largest: pairs that cost less are left out of predictions
GUESS_ERROR = 0.3  # default error of a guess, relative to itself


@dataclass(frozen=True)
class Tables:
    """An additive objective: constant, `node` (L, K) with 0 where there is no such choice, the costs `edge` (E,) of
    switches at the space's edges and `far` (P,) of switches at other `pairs` (P, 2) that were found to cost."""

    constant: float
    node: Floats
    edge: Floats
    pairs: Ints = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    far: Floats = field(default_factory=lambda: np.zeros(0))

    def predict(self, space: Space, configs: Ints) -> Floats:
        """Costs (n,) of configurations (n, L)."""
        parts, weights = self.node.ravel()[space.nodes(configs)], space.weights(configs)
        cost = self.constant + (parts if weights is None else parts * weights).sum(1)
        if self.edge.any():
            cost = cost + space.switches(configs) @ self.edge
        if len(self.pairs):
            cost = cost + space.differ(configs, self.pairs) @ self.far
        return np.asarray(cost)


@dataclass
class Group:
    """Prior covariance `basis @ basis.T` of table entries; a vector stands for a diagonal basis."""

    basis: Floats
    start: float  # default standard deviation, in units of the observed spread

    def features(self, design: Floats) -> Floats:
        if self.basis.ndim == 1:
            return design * self.basis
        return np.asarray((sparse.csr_matrix(self.basis).T @ design.T).T)

    def spread(self, design: Floats, alpha: Floats) -> Floats:
        """Posterior mean of the table entries, up to the group's variance."""
        weights = design.T @ alpha
        return self.basis**2 * weights if self.basis.ndim == 1 else self.basis @ (self.basis.T @ weights)


@dataclass
class LinearModel:
    """Fitted anew for every batch; what `learn` found is kept between fits. `guess` (L, K) is believed up to scale, as
    far as the data agree with it."""

    space: Space
    guess: Floats | None = None
    amplitudes: Floats | None = None
    label_effect: Floats | None = None
    span: Floats | None = None  # (L,) how much each layer's choices differ in cost, the mean is 1 / L
    pair_scale: Floats | None = None  # (P,) prior sd of every one of `_candidates`; None: pairs take no part
    _beside: Ints | None = None

    def fit(self, configs: Ints, values: Floats, *, learn: bool) -> Tables:
        """Tables for measured `values` (n,) of `configs` (n, L). NaN values are left out.

        With `learn` the weights of the groups are chosen anew, otherwise those of the last `learn` are kept.
        """
        known = np.isfinite(values)
        space = self.space
        if not known.any():
            return Tables(0.0, np.zeros(space.labels.shape), np.zeros(len(space.edges)))
        configs, values = configs[known], values[known]
        centre, scale = float(values.mean()), float(values.std()) or 1.0
        target = (values - centre) / scale
        if learn or self.amplitudes is None or self.label_effect is None:
            self._learn(configs, target)
        assert self.amplitudes is not None
        constant, table = self._posterior(self._design(configs), target, self._groups(), self.amplitudes)
        return self._tables(centre + scale * constant, scale * table)

    def _design(self, configs: Ints) -> Floats:
        """(n, F + E + P): one-hot nodes, then switches at the edges, then those at the pairs that take part."""
        space = self.space
        nodes = np.zeros((len(configs), space.labels.size))
        weights = space.weights(configs)
        np.put_along_axis(nodes, space.nodes(configs), 1.0 if weights is None else weights, axis=1)
        parts = [nodes, space.switches(configs)]
        if self.pair_scale is not None:
            parts.append(space.differ(configs, self._candidates()))
        return np.concatenate(parts, axis=1)

    def _candidates(self) -> Ints:
        """(P, 2): all pairs that are no edges; of long networks those that are near in the chain."""
        if self._beside is None:
            layers = len(self.space)
            first, second = np.triu_indices(layers, 1)
            near = second - first <= max(MOST_PAIRS // layers, 3)
            pairs = np.stack([first[near], second[near]], axis=1)
            known = {tuple(edge) for edge in self.space.edges.tolist()}
            self._beside = pairs[np.array([tuple(pair) not in known for pair in pairs.tolist()], bool)]
        return self._beside

    def _groups(self) -> list[Group]:
        space = self.space
        layers, width = space.labels.shape
        even = np.full(layers, 1.0 / layers)
        nodes, edges, far = layers * width, len(space.edges), 0 if self.pair_scale is None else len(self.pair_scale)
        near = space.share[space.edges].mean(1)
        per_edge = np.full(edges, 1.0 / layers)

        def node(sd: Floats) -> Floats:
            return np.concatenate([(sd[:, None] * space.valid).ravel(), np.zeros(edges + far)])

        def labels(weight: Floats) -> Floats:
            basis = np.zeros((nodes + edges + far, len(space.label_names)))
            rows = np.flatnonzero(space.valid)
            basis[rows, space.labels.ravel()[rows]] = np.repeat(weight, width)[rows]
            return basis

        def layer(pattern: Floats) -> Floats:
            basis = np.zeros((nodes + edges + far, layers))
            rows = np.arange(nodes)
            basis[rows, rows // width] = pattern.ravel()
            return basis

        def edge(column: Floats) -> Floats:
            return np.concatenate([np.zeros(nodes), column, np.zeros(far)])

        geometric = np.sqrt(even * space.share)
        groups = [Group(labels(even), 1.0), Group(labels(space.share), 1.0)]
        root = np.sqrt(layers) * 0.3  # L independent effects of sd root / L have together the sd 0.3
        groups += [Group(node(w) * root, 1.0) for w in (even, geometric, space.share)]
        if edges:
            groups += [Group(edge(w)[:, None], SWITCH * 3) for w in (per_edge, near)]
            groups += [Group(edge(w) * root, SWITCH * 3) for w in (per_edge, near)]
        if edges and self.span is not None:
            weight = self.span[space.edges].mean(1)
            groups += [Group(edge(weight)[:, None], SWITCH * 3), Group(edge(weight) * root, SWITCH * 3)]
        if self.label_effect is not None:
            pattern = np.where(space.valid, self.label_effect[space.labels], 0.0)
            groups += [Group(layer(pattern * weight[:, None] * root), 1.0) for weight in (even, space.share)]
        if self.guess is not None:
            guess = _standardised(self.guess, space)
            entries = np.concatenate([guess.ravel(), np.zeros(edges + far)])
            groups += [Group(entries[:, None], 1.0), Group(layer(guess), GUESS_ERROR), Group(entries, GUESS_ERROR)]
        if self.pair_scale is not None:
            groups.append(Group(np.concatenate([np.zeros(nodes + edges), self.pair_scale]), SWITCH))
        return groups

    def _learn(self, configs: Ints, target: Floats) -> None:
        """First what the labels do on average, then with it the weights of all groups, then which pairs matter."""
        configs, target = configs[-ROWS:], target[-ROWS:]
        self.label_effect = self.span = self.pair_scale = None
        groups = self._groups()
        start = np.array([3.0, *[g.start for g in groups], NOISE])
        _, table = self._posterior(self._design(configs), target, groups, start)
        space = self.space
        nodes = table[: space.labels.size].reshape(space.labels.shape)
        effect = np.array([nodes[space.labels == j].mean() for j in range(len(space.label_names))]) * len(space)
        self.label_effect = effect - effect.mean()
        self._learn_amplitudes(configs, target)
        assert self.amplitudes is not None
        _, table = self._posterior(self._design(configs), target, self._groups(), self.amplitudes)
        self.span = _spans(table[: space.labels.size].reshape(space.labels.shape), space)
        evidence = self._learn_amplitudes(configs, target)
        if len(target) >= FEWEST_FOR_PAIRS and len(self._candidates()):
            self._learn_pairs(configs, target, evidence)

    def _learn_amplitudes(self, configs: Ints, target: Floats) -> float:
        """The log evidence of the groups as they are."""
        groups = self._groups()
        design = self._design(configs)
        start = np.array([3.0, *[g.start for g in groups], NOISE])
        kernels = [np.ones((len(target), len(target)))]
        for group in groups:
            features = group.features(design)
            kernels.append(features @ features.T)
        self.amplitudes, evidence = fit_amplitudes([kernels], [target], start)
        return evidence

    def _learn_pairs(self, configs: Ints, target: Floats, evidence: float) -> None:
        """Which pairs have a switch cost: their prior scales, first alike, are reweighted toward few large ones."""
        assert self.span is not None
        without = self.amplitudes
        scale = self.span[self._candidates()].mean(1)
        self.pair_scale = scale / np.sqrt((scale**2).sum())
        gain = self._learn_amplitudes(configs, target) - evidence
        assert self.amplitudes is not None
        if gain < PAIRS_MATTER:
            self.pair_scale, self.amplitudes = None, without
            return
        for _ in range(SPARSER):
            _, table = self._posterior(self._design(configs), target, self._groups(), self.amplitudes)
            weight = np.abs(table[-len(scale) :])
            scale = np.sqrt(weight * (weight + weight.mean())) + 0.01 * weight.max()
            self.pair_scale = scale / np.sqrt((scale**2).sum())
        self._learn_amplitudes(configs, target)

    def _covariance(self, design: Floats, groups: list[Group], amplitudes: Floats) -> Floats:
        """(n, n), without noise."""
        variance = np.zeros(design.shape[1])  # of the entries, by all diagonal groups together
        columns = [np.full((len(design), 1), amplitudes[0])]
        for amplitude, group in zip(amplitudes[1:], groups, strict=False):
            if group.basis.ndim == 1:
                variance += amplitude**2 * group.basis**2
            else:
                columns.append(amplitude * group.features(design))
        scaled = np.concatenate([design * np.sqrt(variance), *columns], axis=1)
        return np.asarray(scaled @ scaled.T)

    def _posterior(
        self, design: Floats, target: Floats, groups: list[Group], amplitudes: Floats
    ) -> tuple[float, Floats]:
        """Posterior mean of the constant and of the table."""
        covariance = self._covariance(design, groups, amplitudes)
        noise = float(amplitudes[-1] ** 2)
        covariance[np.diag_indices(len(target))] += noise * noise_factors(covariance, noise, target)
        alpha = cho_solve(factorised(covariance), target)
        table = np.zeros(design.shape[1])
        for amplitude, group in zip(amplitudes[1:], groups, strict=False):
            table += amplitude**2 * group.spread(design, alpha)
        return float(amplitudes[0] ** 2 * alpha.sum()), table

    def _tables(self, constant: float, table: Floats) -> Tables:
        size, edges = self.space.labels.size, len(self.space.edges)
        node = table[:size].reshape(self.space.labels.shape) * self.space.valid
        far = table[size + edges :]
        strong = np.abs(far) > STRONG * np.abs(far).max(initial=0.0)
        pairs = self._candidates()[strong] if len(far) else np.zeros((0, 2), np.int64)
        return Tables(constant, node, table[size : size + edges], pairs, far[strong])

    def likely(self, tables: Tables) -> Ints:
        """(P, 2): the pairs of `tables` that cost most, at most one per layer."""
        return tables.pairs[np.argsort(-tables.far, kind="stable")[: len(self.space)]]


def _spans(node: Floats, space: Space) -> Floats:
    """(L,) how much the choices of a layer differ, held up by the mean: the mean of all is 1 / L."""
    high, low = np.where(space.valid, node, -np.inf).max(1), np.where(space.valid, node, np.inf).min(1)
    span = high - low
    span = span + 0.2 * span.mean() + 1e-12
    return np.asarray(span / span.sum())


def _standardised(guess: Floats, space: Space) -> Floats:
    """(L, K), every layer around its mean, so that a random configuration has the variance 1."""
    counts = np.maximum(space.valid.sum(1, keepdims=True), 1)
    centred = np.where(space.valid, guess - np.where(space.valid, guess, 0.0).sum(1, keepdims=True) / counts, 0.0)
    variance = float((centred**2 / counts).sum())
    return np.asarray(centred / np.sqrt(variance) if variance > 0 else centred)


def exact_tables(space: Space, objective: int, sign: float, configs: Ints, values: Floats) -> Tables:
    """Tables of an exactly known objective; its constant, where none is given, is what the observed values show."""
    node, constant = space.exact[objective]
    tables = Tables(0.0, sign * node, np.zeros(len(space.edges)))
    if constant is None:
        rest = values - tables.predict(space, configs)
        rest = rest[np.isfinite(rest)]
        constant = sign * float(np.median(rest)) if len(rest) else 0.0
    return Tables(sign * constant, tables.node, tables.edge)
