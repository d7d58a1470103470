"""The search space of the surrogate: parameters as integer vectors, choices shared by label, exact tables."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autotune.errors import UsageError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONSTANT = "constant"  # exact={1: {..., CONSTANT: {CONSTANT: 12.0}}} adds 12.0 to every configuration
MOST_CHOICES = 64


def choices_of(name: str, distribution: BaseDistribution) -> tuple[Any, ...]:
    """All values that a distribution can take, in order.

    Raises `UsageError` for a float with more than one value, or for an int with more than 64.
    """
    if isinstance(distribution, CategoricalDistribution):
        choices: tuple[Any, ...] = tuple(distribution.choices)
    elif isinstance(distribution, FloatDistribution) and distribution.single():
        choices = (distribution.low,)
    elif isinstance(distribution, IntDistribution):
        choices = tuple(range(distribution.low, distribution.high + 1, distribution.step))
    else:
        raise UsageError(
            f"parameter {name!r}: SurrogateSampler handles categorical and int parameters, not {distribution}; "
            "use suggest_categorical with a few values, or another sampler"
        )
    if len(choices) > MOST_CHOICES:
        raise UsageError(
            f"parameter {name!r} has {len(choices)} values; SurrogateSampler handles up to {MOST_CHOICES}: use a step"
        )
    return choices


class Space:
    """`L` parameters in chain order; a configuration is an int vector of shape (L,) of choice indices.

    `labels[l, c]` is the number of the label (the text of the choice) of choice `c` of parameter `l`, -1 where the
    parameter has no such choice. Equal labels in different parameters are believed to mean the same kind of
    choice; that only shapes priors. `share[l]` is the share of parameter `l` in the exactly known objectives
    (1 / L where there is none). `edges` (E, 2) are the pairs of parameters between which data flow: those that are
    given, by name, or the neighbours in the chain.

    A parameter of `outer` changes how much others contribute: parameter -> choice -> other parameter -> factor, 1 where
    nothing is said. A layer of which half the channels are cut has half the bytes, whatever its format.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        *,
        chain: Sequence[str] | None = None,
        exact: Mapping[int, Mapping[str, Mapping[Any, float]]] | None = None,
        edges: Sequence[tuple[str, str]] | None = None,
        outer: Mapping[str, Mapping[Any, Mapping[str, float]]] | None = None,
    ) -> None:
        self.names = _in_chain_order(list(distributions), chain)
        self.distributions = {name: distributions[name] for name in self.names}
        self.choices = [choices_of(name, distributions[name]) for name in self.names]
        self.counts: Ints = np.array([len(c) for c in self.choices], np.int64)
        self.label_names = list(dict.fromkeys(str(c) for choices in self.choices for c in choices))
        number = {label: i for i, label in enumerate(self.label_names)}
        self.labels: Ints = np.full((len(self.names), int(self.counts.max())), -1, np.int64)
        for row, choices in zip(self.labels, self.choices, strict=True):
            row[: len(choices)] = [number[str(c)] for c in choices]
        self._index = [{_key(c): i for i, c in enumerate(choices)} for choices in self.choices]
        self.exact = {m: self._exact_table(table) for m, table in (exact or {}).items()}
        self.share = self._shares()
        self.edges = self._chain_edges() if edges is None else self._given_edges(edges)
        self.outer: Ints = np.zeros(0, np.int64)
        self._factors = self._outer_factors(outer or {})  # (O, K, L), in the order of `self.outer`

    def __len__(self) -> int:
        return len(self.names)

    @property
    def valid(self) -> Bools:
        """(L, K) mask of the choices that exist."""
        return self.labels >= 0

    @property
    def log_size(self) -> float:
        """Natural logarithm of the number of configurations."""
        return float(np.log(self.counts).sum())

    def encode(self, params: Mapping[str, Any]) -> Ints | None:
        """Choice indices (L,), or None where a parameter is missing or has a value outside its choices."""
        indices = [index.get(_key(params[name])) if name in params else None
                   for name, index in zip(self.names, self._index, strict=True)]  # fmt: skip
        return None if any(i is None for i in indices) else np.array(indices, np.int64)

    def decode(self, x: Ints) -> dict[str, Any]:
        return {name: choices[int(i)] for name, choices, i in zip(self.names, self.choices, x, strict=True)}

    def random(self, rng: np.random.Generator, n: int) -> Ints:
        """`n` uniformly random configurations, shape (n, L)."""
        return (rng.random((n, len(self))) * self.counts).astype(np.int64)

    def nodes(self, configs: Ints) -> Ints:
        """Flat node numbers `l * K + choice` of configurations of shape (n, L)."""
        return np.asarray(configs + np.arange(len(self)) * self.labels.shape[1])

    def switches(self, configs: Ints) -> Floats:
        """(n, E): 1 where the two ends of an edge have different labels."""
        return self.differ(configs, self.edges)

    def differ(self, configs: Ints, pairs: Ints) -> Floats:
        """(n, P): 1 where the two parameters of a pair, of shape (P, 2), have different labels."""
        labels = self.labels[np.arange(len(self)), configs]
        return np.asarray(labels[:, pairs[:, 0]] != labels[:, pairs[:, 1]], float)

    def weights(self, configs: Ints) -> Floats | None:
        """(n, L): by how much what a parameter contributes is scaled; None where nothing ever is."""
        if not len(self.outer):
            return None
        weights = np.ones(configs.shape)
        for factors, parameter in zip(self._factors, self.outer, strict=True):
            weights *= factors[configs[:, parameter]]
        return weights

    def given(self, config: Ints) -> Space:
        """The space with its outer parameters fixed as in `config` (L,): a space without any."""
        space = copy.copy(self)
        space.labels = self.labels.copy()
        for parameter in self.outer:
            space.labels[parameter, np.arange(space.labels.shape[1]) != config[parameter]] = -1
        space.outer = np.zeros(0, np.int64)
        return space

    def structures(self, configs: Ints) -> Ints:
        """Those of `configs` (n, L) that differ in an outer parameter, the first of each kind; (1, L) without any."""
        _, first = np.unique(configs[:, self.outer], axis=0, return_index=True)
        return configs[np.sort(first)]

    def table_of(self, values: Mapping[str, Mapping[Any, float]], what: str) -> Floats:
        """(L, K) from parameter -> choice -> value; 0 for parameters that are not named.

        Raises `UsageError` for a name that is no parameter and for a choice without a value; `what` names the argument.
        """
        unknown = set(values) - set(self.names) - {CONSTANT}
        if unknown:
            raise UsageError(f"{what}: {sorted(unknown)[0]!r} is no parameter of the search space")
        nodes = np.zeros(self.labels.shape)
        for l, (name, choices) in enumerate(zip(self.names, self.choices, strict=True)):  # noqa: E741
            for c, choice in enumerate(choices):
                if name in values and choice not in values[name]:
                    raise UsageError(f"{what}: parameter {name!r} has no value for choice {choice!r}")
                nodes[l, c] = values[name][choice] if name in values else 0.0
        return nodes

    def _exact_table(self, table: Mapping[str, Mapping[Any, float]]) -> tuple[Floats, float | None]:
        return self.table_of(table, "exact"), (float(table[CONSTANT][CONSTANT]) if CONSTANT in table else None)

    def _chain_edges(self) -> Ints:
        layers = np.arange(len(self.names))
        return np.stack([layers[:-1], layers[1:]], axis=1)

    def _given_edges(self, edges: Sequence[tuple[str, str]]) -> Ints:
        number = {name: i for i, name in enumerate(self.names)}
        for name in (name for edge in edges for name in edge):
            if name not in number:
                raise UsageError(f"edges: {name!r} is no parameter of the search space")
        pairs = {tuple(sorted((number[a], number[b]))) for a, b in edges if a != b}
        return np.array(sorted(pairs), np.int64).reshape(len(pairs), 2)

    def _outer_factors(self, outer: Mapping[str, Mapping[Any, Mapping[str, float]]]) -> Floats:
        number = {name: i for i, name in enumerate(self.names)}
        unknown = (set(outer) | {name for t in outer.values() for f in t.values() for name in f}) - set(number)
        if unknown:
            raise UsageError(f"outer: {sorted(unknown)[0]!r} is no parameter of the search space")
        self.outer = np.array(sorted(number[name] for name in outer), np.int64)
        factors = np.ones((len(outer), self.labels.shape[1], len(self)))
        for row, parameter in zip(factors, self.outer, strict=True):
            for c, choice in enumerate(self.choices[parameter]):
                for name, factor in outer[self.names[parameter]].get(choice, {}).items():
                    if not factor >= 0:
                        raise UsageError(f"outer: the factor of {name!r} must be a number from 0 on, not {factor}")
                    row[c, number[name]] = factor
        return factors

    def _shares(self) -> Floats:
        spans = np.zeros(len(self))
        for nodes, _ in self.exact.values():
            low = np.where(self.valid, nodes, np.inf).min(1)
            high = np.where(self.valid, nodes, -np.inf).max(1)
            if (high - low).sum() > 0:
                spans += (high - low) / (high - low).sum()
        if spans.sum() == 0:
            return np.full(len(self), 1.0 / len(self))
        spans = spans / spans.sum()
        return np.asarray(0.99 * spans + 0.01 / len(self))  # no parameter is without any weight in a prior


def distinct(configs: Ints) -> Ints:
    """Configurations (n, L) without repetitions, in the order of their first appearance."""
    first = {row.tobytes(): i for i, row in reversed(list(enumerate(configs)))}
    return configs[np.sort(np.fromiter(first.values(), np.int64, len(first)))]


def _in_chain_order(names: list[str], chain: Sequence[str] | None) -> list[str]:
    if chain is None:
        return names
    known = [name for name in chain if name in names]
    return known + [name for name in names if name not in known]


def _key(value: Any) -> tuple[str, Any]:
    """1, 1.0 and True are equal in Python but not the same choice."""
    return type(value).__name__, value
