"""The parts of the surrogate against brute force and known truths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autotune.errors import UsageError
from autotune.search.surrogate.damage import DamageModel
from autotune.search.surrogate.designs import balanced_designs, design_count, given_anchors, uniform_anchors
from autotune.search.surrogate.front import Improvement, non_dominated
from autotune.search.surrogate.linear import LinearModel, Tables, exact_tables
from autotune.search.surrogate.link import Link, fit_link
from autotune.search.surrogate.proposals import every, neighbours, untried
from autotune.search.surrogate.space import CONSTANT, Space
from autotune.search.surrogate.sweep import viterbi


def space_of(*counts: int, **options: object) -> Space:
    return Space(
        {f"p{i}": CategoricalDistribution([f"c{k}" for k in range(n)]) for i, n in enumerate(counts)},
        **options,
    )


def mixed_space() -> Space:
    """Two kinds of layer with different choices, and an int."""
    conv = CategoricalDistribution(["none", "int8"])
    matmul = CategoricalDistribution(["none", "w8", "w4"])
    return Space({"conv0": conv, "mm0": matmul, "conv1": conv, "rank": IntDistribution(4, 16, step=4)})


class TestSpace:
    def test_encode_is_the_inverse_of_decode(self) -> None:
        space = mixed_space()
        for config in space.random(np.random.default_rng(0), 50):
            assert np.array_equal(space.encode(space.decode(config)), config)

    def test_values_outside_the_choices_are_no_configuration(self) -> None:
        space = mixed_space()
        good = space.decode(np.zeros(4, np.int64))
        assert space.encode(good) is not None
        assert space.encode(good | {"mm0": "w3"}) is None
        assert space.encode(good | {"rank": 5}) is None
        assert space.encode({k: v for k, v in good.items() if k != "rank"}) is None

    def test_true_and_one_are_different_choices(self) -> None:
        space = Space({"a": CategoricalDistribution([True, 1, 1.0])})
        assert [int(space.encode({"a": v})[0]) for v in (True, 1, 1.0)] == [0, 1, 2]

    def test_labels_are_shared_by_text(self) -> None:
        space = mixed_space()
        assert space.labels[0, 0] == space.labels[1, 0]  # "none" of both kinds
        assert space.labels[0, 1] != space.labels[1, 1]
        assert (space.labels[0, 2:] == -1).all()

    def test_a_switch_is_a_change_of_label(self) -> None:
        space = mixed_space()
        config = space.encode({"conv0": "none", "mm0": "none", "conv1": "int8", "rank": 4})
        assert config is not None
        assert space.switches(config[None]).tolist() == [[0.0, 1.0, 1.0]]

    def test_chain_orders_the_parameters(self) -> None:
        assert space_of(2, 2, 2, chain=["p2", "p0"]).names == ["p2", "p0", "p1"]

    def test_floats_and_long_ints_are_refused_by_name(self) -> None:
        with pytest.raises(UsageError, match="'lr'"):
            Space({"lr": FloatDistribution(0, 1)})
        with pytest.raises(UsageError, match="1000 values"):
            Space({"n": IntDistribution(1, 1000)})

    def test_exact_must_name_parameters_and_cover_choices(self) -> None:
        with pytest.raises(UsageError, match="'q'"):
            space_of(2, exact={0: {"q": {}}})
        with pytest.raises(UsageError, match="no value for choice 'c1'"):
            space_of(2, exact={0: {"p0": {"c0": 1.0}}})


class TestDesigns:
    def test_uniform_anchors_of_equal_choices(self) -> None:
        assert uniform_anchors(space_of(3, 3)).tolist() == [[0, 0], [1, 1], [2, 2]]

    def test_uniform_anchors_by_label(self) -> None:
        anchors = uniform_anchors(mixed_space())
        decoded = [tuple(mixed_space().decode(a).values()) for a in anchors]
        assert ("none", "none", "none", 4) in decoded
        assert ("int8", "none", "int8", 4) in decoded
        assert ("none", "w4", "none", 4) in decoded
        assert len(set(decoded)) == len(decoded)

    def test_an_anchor_outside_the_space_is_refused(self) -> None:
        with pytest.raises(UsageError, match="anchor"):
            given_anchors(space_of(2, 2), [{"p0": "c0"}])

    @given(st.lists(st.integers(2, 10), min_size=1, max_size=30), st.integers(0, 5))
    @settings(deadline=None, max_examples=30)
    def test_designs_are_balanced(self, counts: list[int], seed: int) -> None:
        space = space_of(*counts)
        count = max(design_count(space), 1)
        designs = balanced_designs(space, count, np.random.default_rng(seed))
        for column, k in zip(designs.T, counts, strict=True):
            times = np.bincount(column, minlength=k)
            assert len(times) == k
            assert times.max() - times.min() <= 1


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_viterbi_finds_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = space_of(*rng.integers(1, 4, 5))
    node = rng.normal(size=(3, *space.labels.shape))
    edge = rng.normal(size=(3, len(space) - 1))
    found = viterbi(space, node, edge)
    configs = every(space)
    assert len(configs) == np.prod(space.counts)
    for problem in range(3):
        costs = Tables(0.0, node[problem], edge[problem]).predict(space, configs)
        least = Tables(0.0, node[problem], edge[problem]).predict(space, found[problem][None])
        assert least[0] == pytest.approx(costs.min())


class TestFront:
    @given(st.integers(0, 1000), st.integers(1, 4))
    @settings(deadline=None, max_examples=40)
    def test_non_dominated_is_the_definition(self, seed: int, objectives: int) -> None:
        points = np.random.default_rng(seed).integers(0, 5, (25, objectives)).astype(float)
        mask = non_dominated(points)
        for i, point in enumerate(points):
            better = (points <= point).all(1) & (points < point).any(1)
            if better.any():
                assert not mask[i]
        assert {tuple(p) for p in points[mask]} == {
            tuple(p) for p in points if not ((points <= p).all(1) & (points < p).any(1)).any()
        }

    def test_improvement_is_in_proportion_to_the_gain_in_hypervolume(self) -> None:
        rng = np.random.default_rng(0)
        front = np.array([[0.5, 0.5, 0.5]])
        pool = np.array([[0.25, 0.5, 0.5], [0.5, 0.5, 0.25], [0.6, 0.6, 0.6], [0.1, 0.9, 0.2]])
        gains = Improvement(front, pool, np.ones(3), rng).of(pool)
        exact = np.array([0.0625, 0.0625, 0.0, 0.9 * 0.1 * 0.8 - 0.5 * 0.1 * 0.5])  # union minus 0.125, by hand
        assert gains / gains[0] == pytest.approx(exact / exact[0], rel=0.15)

    def test_what_was_added_improves_no_more(self) -> None:
        pool = np.array([[0.2, 0.7], [0.7, 0.2]])
        improvement = Improvement(np.array([[0.9, 0.9]]), pool, np.ones(2), np.random.default_rng(0))
        before = improvement.of(pool)
        improvement.add(pool[0])
        after = improvement.of(pool)
        assert after[0] == 0.0
        assert 0 < after[1] < before[1]

    def test_one_objective(self) -> None:
        pool = np.array([[0.5], [0.2]])
        improvement = Improvement(np.array([[0.4]]), pool, np.ones(1), np.random.default_rng(0))
        assert improvement.of(pool) == pytest.approx([0.0, 0.2])


class TestLinearModel:
    def test_learns_choices_and_switches(self) -> None:
        rng = np.random.default_rng(3)
        space = space_of(*[3] * 12)
        truth = Tables(10.0, rng.normal(size=(12, 3)), np.full(11, 1.0))
        configs = space.random(rng, 120)
        values = truth.predict(space, configs) + rng.normal(0, 0.02, 120)
        tables = LinearModel(space).fit(configs[:80], values[:80], learn=True)
        error = tables.predict(space, configs[80:]) - truth.predict(space, configs[80:])
        assert np.abs(error).mean() < 0.1 * values.std()
        assert tables.edge == pytest.approx(truth.edge, abs=0.4)

    def test_unknown_values_are_left_out(self) -> None:
        space = space_of(2, 2)
        values = np.array([1.0, np.nan, 2.0])
        configs = np.array([[0, 0], [1, 0], [1, 1]])
        tables = LinearModel(space).fit(configs, values, learn=True)
        assert np.isfinite(tables.predict(space, every(space))).all()

    def test_an_exact_objective_is_reproduced_with_its_constant(self) -> None:
        exact = {0: {"p0": {"c0": 1.0, "c1": 5.0}, "p1": {"c0": 2.0, "c1": 3.0}}}
        space = space_of(2, 2, exact=exact)
        configs = np.array([[0, 0], [1, 1]])
        observed = exact_tables(space, 0, 1.0, configs, np.array([103.0, 108.0]))
        assert observed.predict(space, every(space)).tolist() == [103.0, 104.0, 107.0, 108.0]
        exact[0][CONSTANT] = {CONSTANT: 7.0}
        told = exact_tables(space_of(2, 2, exact=exact), 0, -1.0, configs, np.array([np.nan, np.nan]))
        assert told.predict(space, configs).tolist() == [-10.0, -15.0]


def _damage_problem(relative: bool) -> tuple[Space, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    space = space_of(*[3] * 15)
    table = np.exp(rng.normal(-3, 1, (15, 3, 1)) + rng.normal(0, 0.7, (15, 1, 2)))
    table[:, 0] = 0.0
    configs = np.concatenate([uniform_anchors(space), space.random(rng, 117)])
    damage = table[np.arange(15), configs].sum(1)
    noise = damage * rng.normal(0, 0.05, damage.shape) if relative else rng.normal(0, 0.01, damage.shape)
    noise[0] = 0.0
    return space, configs, damage, damage + noise


@pytest.mark.parametrize(("relative", "error"), [(True, 0.1), (False, 0.25)])
def test_damage_of_new_configurations_is_predicted(relative: bool, error: float) -> None:
    space, configs, truth, seen = _damage_problem(relative)
    fit = DamageModel(space, relative=relative).fit(configs[:90], seen[:90], learn=True)
    predicted = fit.predict(configs[90:])
    assert np.median(np.abs(predicted / truth[90:] - 1)) < error


def test_the_original_does_no_damage() -> None:
    space, configs, _, seen = _damage_problem(True)
    fit = DamageModel(space, relative=True).fit(configs, seen, learn=True)
    assert (fit.predict(configs[:1]) == 0).all()
    assert (fit.table[:, 0] == 0).all()


def test_link_is_recovered() -> None:
    rng = np.random.default_rng(1)
    truth = Link(np.array([2.0, 0.5]), 1.0, 0.7)
    damage = rng.uniform(0, 1.0, (80, 2))
    link = fit_link(damage, truth.drop(damage) + rng.normal(0, 0.01, damage.shape))
    assert link.drop(damage) == pytest.approx(truth.drop(damage), abs=0.03)
    assert link.drop(link.damage(0.1)[None])[0] == pytest.approx(0.1)


class TestNeighbours:
    def test_all_are_configurations_and_none_is_the_start(self) -> None:
        space = mixed_space()
        rng = np.random.default_rng(0)
        config = space.random(rng, 1)[0]
        near = neighbours(space, config, space.random(rng, 5), rng)
        assert (near < space.counts).all()
        assert (near != config).any(1).all()
        singles = {tuple(n) for n in near if (n != config).sum() == 1}
        assert len(singles) == sum(k - 1 for k in space.counts)

    def test_untried_finds_the_last_one(self) -> None:
        space = space_of(2, 3)
        *seen, left = every(space)
        found = untried(space, {c.tobytes() for c in seen}, np.random.default_rng(0))
        assert np.array_equal(found, left)


def test_every_lists_a_space_once() -> None:
    assert {tuple(c) for c in every(space_of(2, 3))} == set(itertools.product(range(2), range(3)))
