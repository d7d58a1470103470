"""The linear programme and the best configuration within limits, against enumeration of small spaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

from autotune.search.surrogate.aim import Aim, promise
from autotune.search.surrogate.damage import DamageFit, Scales
from autotune.search.surrogate.linear import Tables
from autotune.search.surrogate.link import Link
from autotune.search.surrogate.milp import Programme, quantities
from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.proposals import every
from autotune.search.surrogate.space import Space
from autotune.search.surrogate.within import Question, best_within, inside, least_alone

SLICES = 3
COUNTS = (3, 2, 4, 3, 2)


def fitted_of(seed: int, *, worst: bool = True) -> Fitted:
    """Two additive objectives, one with prices for switches (some of them gains), and damage in three slices."""
    rng = np.random.default_rng(seed)
    space = Space({f"p{i}": CategoricalDistribution([f"c{k}" for k in range(n)]) for i, n in enumerate(COUNTS)})
    valid = space.valid
    edge = rng.normal(0.3, 0.5, len(COUNTS) - 1)
    far = (np.array([[0, 3]]), rng.normal(0, 0.5, 1))
    additive = {
        0: Tables(1.0, rng.normal(size=valid.shape) * valid, edge, *far),
        1: Tables(0.0, rng.uniform(0, 1, valid.shape) * valid, np.zeros(len(edge))),
    }
    if not worst:
        return Fitted(space, additive, None, None, None, 2)
    table = rng.lognormal(-2, 1, (*valid.shape, SLICES)) * valid[:, :, None]
    return Fitted(space, additive, 2, DamageFit(space, table, Scales()), Link(np.array([1.0, 0.7, 1.5]), 1.0, 0.8), 3)


def exactly(fitted: Fitted, minimise: int, limits: dict[int, float]) -> float:
    """The least by enumeration; infinite where nothing is within the limits."""
    values = quantities(fitted, every(fitted.space))
    return float(values[inside(values, limits), minimise].min(initial=np.inf))


def ask(fitted: Fitted, question: Question) -> tuple[np.ndarray | None, float]:
    found = best_within(Programme(fitted), question, seconds=60, rng=np.random.default_rng(0))
    return found.config, float(found.quantities[question.minimise]) if found.config is not None else np.inf


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 2, 4]), st.floats(0.1, 0.9))
@settings(deadline=None, max_examples=30)
def test_finds_the_best_of_all(seed: int, minimise: int, share: float) -> None:
    fitted = fitted_of(seed)
    values = quantities(fitted, every(fitted.space))
    limits = {m: float(np.quantile(values[:, m], share)) for m in (0, 1, 2, 5) if m != minimise}
    config, value = ask(fitted, Question(minimise, limits, gap=0.0))
    assert value == pytest.approx(exactly(fitted, minimise, limits), rel=1e-4, abs=1e-4)
    if config is not None:
        assert inside(quantities(fitted, config[None]), limits).all()


def test_without_a_worst_objective() -> None:
    fitted = fitted_of(3, worst=False)
    _, value = ask(fitted, Question(0, {1: 2.0}, gap=0.0))
    assert value == pytest.approx(exactly(fitted, 0, {1: 2.0}))


def test_answers_keep_their_distance() -> None:
    fitted = fitted_of(1)
    first, _ = ask(fitted, Question(0, {}))
    assert first is not None
    second, _ = ask(fitted, Question(0, {}, taken=[first]))
    third, _ = ask(fitted, Question(0, {}, avoid=[first], apart=3))
    assert second is not None
    assert third is not None
    assert (second != first).any()
    assert (third != first).sum() >= 3


def test_what_a_limit_alone_would_have_to_give() -> None:
    fitted = fitted_of(2)
    values = quantities(fitted, every(fitted.space))
    limits = {0: float(values[:, 0].min()), 1: float(values[:, 1].min())}
    assert exactly(fitted, 2, limits) == np.inf
    programme, rng = Programme(fitted), np.random.default_rng(0)
    for column, other in ((0, 1), (1, 0)):
        needed = exactly(fitted, column, {other: limits[other]}) - limits[column]
        excess = least_alone(programme, Question(2, limits), column, seconds=30, rng=rng)
        assert excess == pytest.approx(needed, rel=0.02, abs=1e-3)


def test_a_limit_cannot_help_where_the_others_contradict_each_other() -> None:
    fitted = fitted_of(2)
    values = quantities(fitted, every(fitted.space))
    limits = {0: float(values[:, 0].min()) - 1, 1: float(values[:, 1].min()), 2: 0.5}
    excess = least_alone(Programme(fitted), Question(2, limits), 1, seconds=5, rng=np.random.default_rng(0))
    assert excess == float("inf")


def test_no_drop_at_all_leaves_only_what_does_no_damage() -> None:
    fitted = fitted_of(5)
    assert fitted.damage is not None
    fitted.damage.table[:, 0] = 0.0
    config, _ = ask(fitted, Question(1, {2: 0.0}))
    assert config is not None
    assert config.tolist() == [0] * len(COUNTS)


def test_the_same_work_gives_the_same_answer() -> None:
    fitted = fitted_of(4)
    answers = [ask(fitted, Question(0, {2: 0.3}, nodes=5))[0] for _ in range(2)]
    assert np.array_equal(*answers)


class TestPromise:
    def test_without_a_best_one_it_is_the_probability_of_being_inside(self) -> None:
        aim = Aim(0, {1: 1.0})
        found = promise(np.array([[5.0, 1.0], [5.0, 0.0]]), aim, np.array([1.0, 1.0]), np.inf)
        assert found == pytest.approx([0.5, 0.8413], abs=1e-3)

    def test_better_and_safer_promise_more(self) -> None:
        aim = Aim(0, {1: 1.0})
        values = np.array([[3.0, 0.0], [4.0, 0.0], [3.0, 1.5]])
        better, worse, risky = promise(values, aim, np.array([0.1, 0.5]), best=4.5)
        assert better > worse
        assert better > risky

    def test_the_corner_is_at_the_limits_once_they_are_met(self) -> None:
        aim = Aim(0, {1: 1.0})
        corner = np.array([10.0, 10.0])
        assert aim.corner(corner, np.array([[5.0, 0.5]])).tolist() == [10.0, 1.0]
        assert aim.corner(corner, np.array([[5.0, 2.0], [6.0, 4.0]])).tolist() == [10.0, 2.1]
