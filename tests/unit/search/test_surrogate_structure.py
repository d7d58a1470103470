"""What the surrogate finds out or is told about structure: edges, interactions, outliers, guesses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

from autotune.errors import UsageError
from autotune.search.surrogate.damage import DamageModel
from autotune.search.surrogate.designs import balanced_designs, uniform_anchors
from autotune.search.surrogate.history import History
from autotune.search.surrogate.linear import LinearModel, Tables
from autotune.search.surrogate.model import Model
from autotune.search.surrogate.outliers import noise_factors
from autotune.search.surrogate.proposals import every, neighbours
from autotune.search.surrogate.space import Ints, Space
from autotune.search.surrogate.sweep import forest, least_cost


def space_of(*counts: int, **options: object) -> Space:
    return Space(
        {f"p{i}": CategoricalDistribution([f"c{k}" for k in range(n)]) for i, n in enumerate(counts)},
        **options,
    )


class TestEdges:
    def test_by_default_a_chain(self) -> None:
        assert space_of(2, 2, 2).edges.tolist() == [[0, 1], [1, 2]]
        assert space_of(2).edges.shape == (0, 2)

    def test_given_by_name_in_any_order_once(self) -> None:
        space = space_of(2, 2, 2, edges=[("p2", "p0"), ("p0", "p2"), ("p1", "p1")])
        assert space.edges.tolist() == [[0, 2]]
        assert space.switches(np.array([[0, 0, 1], [0, 1, 0]])).tolist() == [[1.0], [0.0]]

    def test_of_unknown_parameters_are_refused(self) -> None:
        with pytest.raises(UsageError, match="'q'"):
            space_of(2, 2, edges=[("p0", "q")])

    def test_the_forest_has_the_dearest_edges(self) -> None:
        edges = np.array([[0, 1], [1, 2], [0, 2], [3, 4]])
        assert forest(5, edges, np.array([1.0, 2.0, 3.0, 0.1])).tolist() == [False, True, True, True]

    @given(st.integers(0, 1000))
    @settings(deadline=None, max_examples=40)
    def test_a_tree_is_solved_exactly(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        space = space_of(*rng.integers(1, 4, 6))
        edges = np.array([(int(rng.integers(0, i)), i) for i in range(1, 6)])[rng.permutation(5)]
        self.compare(space, edges, rng, exact=True)

    @given(st.integers(0, 1000))
    @settings(deadline=None, max_examples=25)
    def test_a_graph_is_solved_well(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        edges = np.array([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 3), (1, 5)])
        self.compare(space_of(*[3] * 6), edges, rng, exact=False)

    def compare(self, space: Space, edges: Ints, rng: np.random.Generator, *, exact: bool) -> None:
        node = rng.normal(size=(3, *space.labels.shape))
        cost = rng.uniform(0, 1, size=(3, len(edges)))
        found = least_cost(space, node, edges, cost)
        configs = every(space)
        for problem in range(3):
            tables = Tables(0.0, node[problem], np.zeros(len(space.edges)), edges, cost[problem])
            costs = tables.predict(space, configs)
            reached = tables.predict(space, found[problem][None])[0]
            if exact:
                assert reached == pytest.approx(costs.min())
            else:
                assert (costs < reached).mean() < 0.05

    def test_pairs_that_cost_are_found(self) -> None:
        rng = np.random.default_rng(0)
        space = space_of(*[3] * 10)
        truth = Tables(0.0, rng.normal(0, 0.3, (10, 3)), np.zeros(9), np.array([[0, 5], [2, 8]]), np.array([2.0, 2.0]))
        configs = space.random(rng, 150)
        values = truth.predict(space, configs) + rng.normal(0, 0.05, 150)
        tables = LinearModel(space).fit(configs, values, learn=True)
        found = {tuple(pair): cost for pair, cost in zip(tables.pairs.tolist(), tables.far.tolist(), strict=True)}
        assert found[0, 5] == pytest.approx(2.0, abs=0.3)
        assert found[2, 8] == pytest.approx(2.0, abs=0.3)
        assert sum(abs(cost) for cost in found.values()) < 5.0

    def test_no_pairs_are_found_in_a_chain(self) -> None:
        rng = np.random.default_rng(0)
        space = space_of(*[3] * 10)
        truth = Tables(0.0, rng.normal(0, 1, (10, 3)), np.full(9, 0.5))
        configs = space.random(rng, 150)
        tables = LinearModel(space).fit(configs, truth.predict(space, configs) + rng.normal(0, 0.05, 150), learn=True)
        assert np.abs(tables.far).sum() < 0.3


class TestInteractions:
    def problem(self) -> tuple[Space, Ints, np.ndarray]:
        """Damage with terms in pairs of neighbours, some of them so negative that there is almost none left."""
        rng = np.random.default_rng(4)
        space = space_of(*[3] * 12)
        table = np.exp(rng.normal(-3, 0.7, (12, 3, 1)) + rng.normal(0, 0.5, (12, 1, 2)))
        table[:, 0] = 0.0
        weight = rng.normal(0.0, 1.2, (11, 2))
        configs = np.concatenate([uniform_anchors(space), space.random(rng, 197)])
        parts = table[np.arange(12), configs]
        joint = (np.sqrt(parts[:, 1:] * parts[:, :-1]) * weight).sum(1)
        return space, configs, np.maximum(parts.sum(1) + joint, 0.0)

    def test_are_learnt(self) -> None:
        space, configs, truth = self.problem()
        seen = truth * (1 + np.random.default_rng(1).normal(0, 0.03, truth.shape))
        fit = DamageModel(space, relative=True).fit(configs[:120], seen[:120], learn=True)
        error = np.abs(fit.predict(configs[120:]) - truth[120:]).mean()
        additive = np.abs(fit.additive(configs[120:]) - truth[120:]).mean()
        assert error < 0.5 * additive
        assert error < 0.1 * truth.mean()

    def test_damage_that_cancels_out_does_no_harm(self) -> None:
        space, configs, truth = self.problem()
        seen = truth.copy()
        seen[[20, 40, 60, 80], [0, 1, 0, 1]] = 0.0  # as measured where a divergence is below the resolution
        clean = DamageModel(space, relative=True).fit(configs[:120], truth[:120], learn=True)
        fit = DamageModel(space, relative=True).fit(configs[:120], seen[:120], learn=True)
        errors = [np.abs(f.predict(configs[120:]) - truth[120:]).mean() for f in (clean, fit)]
        assert errors[1] < 3.0 * errors[0] + 0.02 * truth.mean()

    @pytest.mark.parametrize("slices", [1, 2])
    def test_a_single_change_is_predicted_exactly_from_nearby(self, slices: int) -> None:
        space, configs, seen = self.problem()
        fit = DamageModel(space, relative=True).fit(configs, seen[:, :slices], learn=True)
        assert fit.weights
        config = configs[-1]
        near = neighbours(space, config, configs, np.random.default_rng(0))
        single = (near != config).sum(1) == 1
        roughly, fully = fit.near(config, near), fit.predict(near)
        assert roughly[single] == pytest.approx(fully[single])
        assert np.median(np.abs(roughly / fully - 1)) < 0.05


class TestOutliers:
    def test_are_found_where_they_are(self) -> None:
        rng = np.random.default_rng(0)
        features = rng.normal(size=(120, 5))
        target = features @ rng.normal(size=5) + rng.normal(0, 0.1, 120)
        target[[7, 50, 90]] += 2.0
        factors = noise_factors(features @ features.T, 0.01, target)
        assert (factors[[7, 50, 90]] > 10).all()
        assert np.median(factors) < 1.1

    @given(st.integers(0, 500))
    @settings(deadline=None, max_examples=20)
    def test_are_seldom_seen_in_ordinary_noise_of_any_width(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(80, 5))
        target = features @ rng.normal(size=5) + rng.normal(0, 0.1 * np.exp(rng.normal()), 80)
        factors = noise_factors(features @ features.T, 0.01, target)
        assert (factors > 5).mean() < 0.1


class TestGuess:
    """A table known beforehand, from another device or from a proxy."""

    def problem(self) -> tuple[Space, np.ndarray, np.ndarray, Ints, np.random.Generator]:
        rng = np.random.default_rng(2)
        space = space_of(*[4] * 30)
        cost = rng.lognormal(0, 1, (30, 1)) * rng.uniform(0.3, 1.0, (30, 4))
        harm = np.exp(rng.normal(-3, 1.2, (30, 1, 1)) + rng.normal(0, 0.5, (30, 4, 1)) + rng.normal(0, 0.3, (30, 1, 2)))
        harm = harm * np.array([0.0, 0.1, 1.0, 2.0])[:, None]
        configs = np.concatenate([uniform_anchors(space), balanced_designs(space, 16, rng), space.random(rng, 200)])
        return space, cost, harm, configs, rng

    def history(self, space: Space, cost: np.ndarray, harm: np.ndarray, configs: Ints) -> History:
        rows, rng = np.arange(len(space)), np.random.default_rng(8)
        latency = cost[rows, configs].sum(1) * (1 + rng.normal(0, 0.01, len(configs)))
        damage = harm[rows, configs].sum(1) * (1 + rng.normal(0, 0.05, (len(configs), 2)))
        values = np.stack([latency, damage.max(1)], axis=1)
        return History(configs, values, damage, damage, ("a", "b"), np.arange(len(configs)))

    def errors(self, cost_guess: np.ndarray | None, harm_guess: np.ndarray | None, n: int) -> np.ndarray:
        """Of latency and damage, relative to their spread, after `n` measurements."""
        space, cost, harm, configs, _ = self.problem()
        names = [f"c{k}" for k in range(4)]
        guess = None if cost_guess is None else {
            0: {name: dict(zip(names, row, strict=True)) for name, row in zip(space.names, cost_guess, strict=True)}
        }  # fmt: skip
        damage_guess = None if harm_guess is None else {
            name: {c: dict(zip("ab", d.tolist(), strict=True)) for c, d in zip(names, row, strict=True)}
            for name, row in zip(space.names, harm_guess, strict=True)
        }  # fmt: skip
        model = Model(space, np.ones(2), worst=1, guess=guess, damage_guess=damage_guess)
        history = self.history(space, cost, harm, configs)
        fitted = model.fit(history.before(n), learn=True)
        late = configs[20:]
        rows = np.arange(len(space))
        truth = cost[rows, late].sum(1)
        predicted = fitted.predict(late)[:, 0]
        damage, seen = fitted.damage, harm[rows, late].sum(1)
        assert damage is not None
        misfit = np.log(damage.predict(late) / seen)
        return np.array([np.std(predicted - truth) / truth.std(), np.sqrt(np.mean(misfit**2))])

    def test_a_good_one_replaces_measurements(self) -> None:
        _, cost, harm, _, rng = self.problem()
        close = 3.0 * cost * rng.lognormal(0, 0.05, cost.shape)  # in another unit
        near = 0.2 * harm * rng.lognormal(0, 0.2, harm.shape)
        without = self.errors(None, None, 60)
        told = self.errors(close, near, 20)
        assert (told < without).all()

    def test_a_wrong_one_costs_little(self) -> None:
        _, cost, harm, _, rng = self.problem()
        order = rng.permutation(len(cost))
        without = self.errors(None, None, 60)
        told = self.errors(cost[order], harm[order], 60)
        assert (told < 1.25 * without).all()

    def test_must_fit_the_space(self) -> None:
        space = space_of(2, 2)
        with pytest.raises(UsageError, match="'q'"):
            Model(space, np.ones(1), worst=None, guess={0: {"q": {"c0": 1.0}}})
        with pytest.raises(UsageError, match="objective 3"):
            Model(space, np.ones(1), worst=None, guess={3: {}})
        with pytest.raises(UsageError, match="damage_guess"):
            Model(space, np.ones(1), worst=0, guess={0: {}})
        with pytest.raises(UsageError, match=r"damage_guess.*'c1'"):
            Model(space, np.ones(1), worst=0, damage_guess={"p0": {"c0": {"a": 1.0}}})


def test_an_objective_that_is_the_same_everywhere_has_no_outliers() -> None:
    features = np.random.default_rng(0).normal(size=(40, 5))
    assert noise_factors(features @ features.T, 0.01, np.zeros(40)).tolist() == [1.0] * 40
