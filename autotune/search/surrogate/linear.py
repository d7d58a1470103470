"""A Bayesian linear model of an additive cost (latency, memory, energy) over a chain of layers.

cost(x) = constant + sum_l node[l, x_l] + sum_l edge[l] [label(x_l) != label(x_l+1)]
          + sum_ij pair[i, j] [label(x_i) != label(x_j)]

The table entries are jointly Gaussian: their covariance is a sum of groups (what a label does on average, what a
layer does, what is left; equal over layers or in proportion to the layers' share of the exactly known objectives;
switches between neighbours), and the data choose the weight of each group by marginal likelihood. Pairs that are no
neighbours in the chain (a network is a graph) take part where the evidence wants them, under a sparse prior: most are
no edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from autotune.search.surrogate.evidence import ROWS, fit_amplitudes
from autotune.search.surrogate.space import Floats, Ints, Space

NOISE = 0.25  # default noise of a measured cost, in units of the observed spread
SURPRISING = 2.5  # standard deviations from which on a measurement counts less
MOST_CHECKED = 1000  # measurements that are checked for outliers: the cost is cubic
MOST_PAIRS = 2000  # pairs beside the neighbours whose switches are considered
FEWEST_FOR_PAIRS = 40  # measurements
PAIRS_MATTER = 3.0  # gain in log evidence from which on they take part
SPARSER = 1  # reweightings
SWITCH = 0.1  # default weight of a switch relative to a node


@dataclass(frozen=True)
class Tables:
    """An additive objective: constant, `node` (L, K) with 0 where there is no such choice, `edge` (L - 1,); the costs
    `far` (P,) of switches between the parameters `pairs` (P, 2) are not seen by the sweep."""

    constant: float
    node: Floats
    edge: Floats
    pairs: Ints = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    far: Floats = field(default_factory=lambda: np.zeros(0))

    def predict(self, space: Space, configs: Ints) -> Floats:
        """Costs (n,) of configurations (n, L)."""
        cost = self.constant + self.node.ravel()[space.nodes(configs)].sum(1)
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
        return design * self.basis if self.basis.ndim == 1 else design @ self.basis

    def spread(self, features: Floats, alpha: Floats) -> Floats:
        """Posterior mean of the table entries, up to the group's variance."""
        weights = features.T @ alpha
        return self.basis * weights if self.basis.ndim == 1 else self.basis @ weights


@dataclass
class LinearModel:
    """Fitted anew for every batch; `amplitudes` may be handed over from an earlier fit of the same space."""

    space: Space
    amplitudes: Floats | None = None
    label_effect: Floats | None = None
    pair_scale: Floats | None = None  # (P,) prior sd of every pair of `_pairs`; None: pairs take no part

    def fit(self, configs: Ints, values: Floats, *, learn: bool) -> Tables:
        """Tables for measured `values` (n,) of `configs` (n, L). NaN values are left out.

        With `learn` the weights of the groups are chosen anew, otherwise those of the last `learn` are kept.
        """
        known = np.isfinite(values)
        space = self.space
        if not known.any():
            return Tables(0.0, np.zeros(space.labels.shape), np.zeros(len(space) - 1))
        configs, values = configs[known], values[known]
        centre, scale = float(values.mean()), float(values.std()) or 1.0
        target = (values - centre) / scale
        if learn or self.amplitudes is None or self.label_effect is None:
            self._learn(configs, target)
        assert self.amplitudes is not None
        constant, table = self._posterior(self._design(configs), target, self._groups(), self.amplitudes)
        return self._tables(centre + scale * constant, scale * table)

    def _design(self, configs: Ints) -> Floats:
        """(n, F + E + P): one-hot nodes, then switches, then those of the pairs that take part."""
        space = self.space
        nodes = np.zeros((len(configs), space.labels.size))
        np.put_along_axis(nodes, space.nodes(configs), 1.0, axis=1)
        parts = [nodes, space.switches(configs)]
        if self.pair_scale is not None:
            parts.append(space.differ(configs, self._pairs()))
        return np.concatenate(parts, axis=1)

    def _pairs(self) -> Ints:
        """(P, 2): all pairs that are no neighbours in the chain; of long chains those that are near."""
        layers = len(self.space)
        first, second = np.triu_indices(layers, 2)
        near = second - first <= max(MOST_PAIRS // layers, 3)
        return np.stack([first[near], second[near]], axis=1)

    def _groups(self) -> list[Group]:
        space = self.space
        layers, width = space.labels.shape
        even = np.full(layers, 1.0 / layers)
        nodes, edges = layers * width, layers - 1
        far = 0 if self.pair_scale is None else len(self.pair_scale)
        near = (space.share[1:] + space.share[:-1]) / 2 if edges else np.zeros(0)

        def node(sd: Floats) -> Floats:
            return np.concatenate([(sd[:, None] * space.valid).ravel(), np.zeros(edges + far)])

        def labels(weight: Floats) -> Floats:
            basis = np.zeros((nodes + edges + far, len(space.label_names)))
            rows = np.flatnonzero(space.valid)
            basis[rows, space.labels.ravel()[rows]] = np.repeat(weight, width)[rows]
            return basis

        def edge(column: Floats) -> Floats:
            return np.concatenate([np.zeros(nodes), column, np.zeros(far)])

        geometric = np.sqrt(even * space.share)
        groups = [Group(labels(even), 1.0), Group(labels(space.share), 1.0)]
        root = np.sqrt(layers) * 0.3  # L independent effects of sd root / L have together the sd 0.3
        groups += [Group(node(w) * root, 1.0) for w in (even, geometric, space.share)]
        if edges:
            groups += [Group(edge(w)[:, None], SWITCH * 3) for w in (even[1:], near)]
            groups += [Group(edge(w) * root, SWITCH * 3) for w in (even[1:], near)]
        if self.label_effect is not None:
            pattern = np.where(space.valid, self.label_effect[space.labels], 0.0)
            for weight in (even, space.share):
                basis = np.zeros((nodes + edges + far, layers))
                for l in range(layers):  # noqa: E741
                    basis[l * width : (l + 1) * width, l] = pattern[l] * weight[l] * root
                groups.append(Group(basis, 1.0))
        if self.pair_scale is not None:
            groups.append(Group(np.concatenate([np.zeros(nodes + edges), self.pair_scale]), SWITCH))
        return groups

    def _learn(self, configs: Ints, target: Floats) -> None:
        """First what the labels do on average, then with it the weights of all groups, then which pairs matter."""
        configs, target = configs[-ROWS:], target[-ROWS:]
        self.label_effect = self.pair_scale = None
        groups = self._groups()
        start = np.array([3.0, *[g.start for g in groups], NOISE])
        _, table = self._posterior(self._design(configs), target, groups, start)
        space = self.space
        nodes = table[: space.labels.size].reshape(space.labels.shape)
        effect = np.array([nodes[space.labels == j].mean() for j in range(len(space.label_names))]) * len(space)
        self.label_effect = effect - effect.mean()
        evidence = self._learn_amplitudes(configs, target)
        if len(target) >= FEWEST_FOR_PAIRS and len(self._pairs()):
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
        """Which pairs have a switch cost: their prior scales are reweighted toward few large ones."""
        without = self.amplitudes
        count = len(self._pairs())
        self.pair_scale = np.full(count, 1 / np.sqrt(count))
        gain = self._learn_amplitudes(configs, target) - evidence
        assert self.amplitudes is not None
        if gain < PAIRS_MATTER:
            self.pair_scale, self.amplitudes = None, without
            return
        for _ in range(SPARSER):
            _, table = self._posterior(self._design(configs), target, self._groups(), self.amplitudes)
            weight = np.abs(table[-count:])
            scale = np.sqrt(weight * (weight + weight.mean())) + 0.01 * weight.max()
            self.pair_scale = scale / np.sqrt((scale**2).sum())
        self._learn_amplitudes(configs, target)

    def _posterior(
        self, design: Floats, target: Floats, groups: list[Group], amplitudes: Floats
    ) -> tuple[float, Floats]:
        features = [group.features(design) for group in groups]
        covariance = np.full((len(target), len(target)), amplitudes[0] ** 2)
        for amplitude, columns in zip(amplitudes[1:], features, strict=False):
            covariance += amplitude**2 * (columns @ columns.T)
        alpha = _robust_solve(covariance, amplitudes[-1] ** 2, target)
        table = np.zeros(design.shape[1])
        for amplitude, group, columns in zip(amplitudes[1:], groups, features, strict=False):
            table += amplitude**2 * group.spread(columns, alpha)
        return float(amplitudes[0] ** 2 * alpha.sum()), table

    def _tables(self, constant: float, table: Floats) -> Tables:
        size = self.space.labels.size
        node = table[:size].reshape(self.space.labels.shape) * self.space.valid
        edges = len(self.space) - 1
        far = table[size + edges :]
        strong = np.abs(far) > 0.02 * np.abs(far).max(initial=0.0)
        pairs = self._pairs()[strong] if len(far) else np.zeros((0, 2), np.int64)
        return Tables(constant, node, table[size : size + edges], pairs, far[strong])


def _robust_solve(covariance: Floats, noise: float, target: Floats) -> Floats:
    """(covariance + noise)^-1 target, with more noise for measurements that the others do not expect: timings have
    outliers."""
    scale = np.ones(len(target))
    diagonal = np.diag_indices(len(target))
    for last in (False, True):
        full = covariance.copy()
        full[diagonal] += noise * scale
        factor = cho_factor(full, lower=True)
        alpha = cho_solve(factor, target)
        if last or len(target) > MOST_CHECKED:
            break
        surprise = alpha / np.sqrt(np.diag(cho_solve(factor, np.eye(len(target)))))  # leave-one-out, standardised
        scale = np.maximum(1.0, (surprise / SURPRISING) ** 2)
        if scale.max() == 1.0:
            break
    return np.asarray(alpha)


def exact_tables(space: Space, objective: int, sign: float, configs: Ints, values: Floats) -> Tables:
    """Tables of an exactly known objective; its constant, where none is given, is what the observed values show."""
    node, constant = space.exact[objective]
    tables = Tables(0.0, sign * node, np.zeros(len(space) - 1))
    if constant is None:
        rest = values - tables.predict(space, configs)
        rest = rest[np.isfinite(rest)]
        constant = sign * float(np.median(rest)) if len(rest) else 0.0
    return Tables(sign * constant, tables.node, tables.edge)
