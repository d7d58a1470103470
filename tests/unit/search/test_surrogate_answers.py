"""What SurrogateSampler says: the best within limits, predictions, contributions, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution

from autotune.errors import UsageError
from autotune.search.surrogate import SurrogateSampler
from autotune.search.surrogate.history import History
from autotune.search.surrogate.thinning import thinned, with_slices

LAYERS, CHOICES = 10, ("a", "b", "c")
RNG = np.random.default_rng(7)
SIZE = RNG.uniform(1, 3, LAYERS)[:, None] * np.array([1.0, 0.5, 0.25])
SPEED = RNG.uniform(1, 2, LAYERS)[:, None] * np.array([1.0, 1.4, 1.8])
HARM = RNG.lognormal(-5, 1, (LAYERS, 1, 2)) * np.array([0.0, 0.3, 1.0])[None, :, None]
SPACE: dict[str, BaseDistribution] = {f"l{i}": CategoricalDistribution(CHOICES) for i in range(LAYERS)}
EXACT = {0: {f"l{i}": dict(zip(CHOICES, map(float, SIZE[i]), strict=True)) for i in range(LAYERS)}}
NAMES = ("day", "night")


def truth(params: dict[str, Any]) -> tuple[list[float], dict[str, float]]:
    """Size (minimised), speed (maximised), worst drop (minimised); drops of the slices."""
    x, rows = np.array([CHOICES.index(params[name]) for name in SPACE]), np.arange(LAYERS)
    drops = dict(zip(NAMES, HARM[rows, x].sum(0).tolist(), strict=True))
    return [float(SIZE[rows, x].sum()), float(SPEED[rows, x].sum()), max(drops.values())], drops


def study_of(trials: int, **more: Any) -> tuple[optuna.Study, SurrogateSampler]:
    options = {"seed": 0, "exact": EXACT, "worst_objective": 2, "space": SPACE} | more
    sampler = SurrogateSampler(**options)
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"], sampler=sampler)
    go_on(study, trials)
    return study, sampler


def go_on(study: optuna.Study, trials: int) -> None:
    for _ in range(trials):
        trial = study.ask(SPACE)
        values, drops = truth(trial.params)
        trial.set_user_attr("drop", drops)
        trial.set_user_attr("damage", drops)
        study.tell(trial, values)


@pytest.fixture(scope="module")
def known() -> tuple[optuna.Study, SurrogateSampler]:
    return study_of(45)


def test_solves_within_limits_in_the_objectives_own_direction(known: tuple[optuna.Study, SurrogateSampler]) -> None:
    _, sampler = known
    limit = 0.3 * float(HARM[:, 2].sum(0).max())
    solution = sampler.solve({1: 13.0 * 1.3, 2: limit}, minimise=0)
    assert solution.params is not None
    values, _ = truth(dict(solution.params))
    assert solution.values == pytest.approx(values, rel=0.1, abs=0.003)
    assert solution.values[1] >= 13.0 * 1.3 - 1e-6
    assert values[2] <= 1.2 * limit
    fastest = sampler.solve({0: values[0], 2: limit}, minimise=1)
    assert fastest.params is not None
    assert fastest.values[1] >= solution.values[1] - 0.02


def test_a_slice_may_have_a_limit_of_its_own(known: tuple[optuna.Study, SurrogateSampler]) -> None:
    _, sampler = known
    free = sampler.solve({}, minimise=0)
    assert free.params is not None
    night = truth(dict(free.params))[1]["night"]
    held = sampler.solve({}, minimise=0, slice_limits={"night": night / 3})
    assert held.params is not None
    assert truth(dict(held.params))[1]["night"] <= 1.2 * night / 3
    assert held.values[0] > free.values[0]


def test_without_a_solution_it_says_what_would_have_to_give(known: tuple[optuna.Study, SurrogateSampler]) -> None:
    _, sampler = known
    smallest = float(SIZE.min(1).sum())
    solution = sampler.solve({0: 1.1 * smallest, 1: 40.0}, minimise=2, slice_limits={"night": 0.0})
    assert solution.params is None
    assert set(solution.excess) == {"0", "1", "drop/night"}
    assert solution.excess["0"] == float("inf")  # nothing reaches a speed of 40
    fast = sampler.solve({0: 1.1 * smallest}, minimise=2, slice_limits={"night": 0.0})
    assert fast.params is None
    assert fast.excess["0"] == pytest.approx(float(SIZE[:, 0].sum()) - 1.1 * smallest, rel=0.01)
    assert 0 < fast.excess["drop/night"] < float(HARM[:, 2, 1].sum())


def test_predicts_in_the_objectives_own_direction(known: tuple[optuna.Study, SurrogateSampler]) -> None:
    study, sampler = known
    params = [dict.fromkeys(SPACE, choice) for choice in CHOICES] + [study.trials[-1].params]
    expected = np.array([truth(one)[0] for one in params])
    predicted = sampler.predict(params)
    assert predicted.shape == (4, 3)
    assert predicted[:, 0] == pytest.approx(expected[:, 0])
    assert predicted[:, 1] == pytest.approx(expected[:, 1], rel=0.03)
    assert predicted[:, 2] == pytest.approx(expected[:, 2], rel=0.15, abs=1e-3)


def test_contributions_add_up(known: tuple[optuna.Study, SurrogateSampler]) -> None:
    study, sampler = known
    params = study.trials[-1].params
    parts = sampler.contributions(params)
    assert sorted(parts) == [0, 1, 2]
    assert parts[0] == {name: pytest.approx(EXACT[0][name][choice]) for name, choice in params.items()}
    predicted = sampler.predict([params, params | {"l3": "a"}])
    assert sum(parts[2].values()) == pytest.approx(predicted[0, 2])
    other = sampler.contributions(params | {"l3": "a"})
    assert sum(other[1].values()) - sum(parts[1].values()) == pytest.approx(predicted[1, 1] - predicted[0, 1])


def test_a_new_sampler_learns_a_study_that_is_there(known: tuple[optuna.Study, SurrogateSampler]) -> None:
    study, sampler = known
    fresh = SurrogateSampler(seed=0, exact=EXACT, worst_objective=2)
    fresh.learn(study)
    params = [study.trials[-1].params]
    assert fresh.predict(params) == pytest.approx(sampler.predict(params), rel=0.05, abs=1e-3)


def test_a_slice_that_hardly_drops_can_be_limited_too() -> None:
    """More slices than are modelled: the one with a limit is among them."""
    sampler = SurrogateSampler(seed=0, worst_objective=1, space=SPACE)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    for _ in range(30):
        trial = study.ask(SPACE)
        values, drops = truth(trial.params)
        many = {f"s{i}": drops["day"] * (1 + i / 10) for i in range(14)} | {"quiet": 0.1 * drops["night"]}
        trial.set_user_attr("drop", many)
        trial.set_user_attr("damage", many)
        study.tell(trial, [values[0], max(many.values())])
    free = sampler.solve({}, minimise=0)
    assert free.params is not None
    limit = 0.03 * truth(dict(free.params))[1]["night"]
    held = sampler.solve({}, minimise=0, slice_limits={"quiet": limit})
    assert held.params is not None
    assert 0.1 * truth(dict(held.params))[1]["night"] <= 1.3 * limit


def test_nothing_is_known_before_anything_is_measured() -> None:
    sampler = SurrogateSampler(seed=0, space=SPACE)
    for question in (lambda: sampler.solve({}, minimise=0), lambda: sampler.predict([{}]),
                     lambda: sampler.contributions({})):  # fmt: skip
        with pytest.raises(UsageError, match="nothing is measured yet"):
            question()
    empty = optuna.create_study()
    with pytest.raises(UsageError, match="no trial with parameters"):
        SurrogateSampler().learn(empty)


def test_questions_that_do_not_fit_are_refused(known: tuple[optuna.Study, SurrogateSampler]) -> None:
    _, sampler = known
    with pytest.raises(UsageError, match="objective 3 does not exist"):
        sampler.solve({3: 1.0}, minimise=0)
    with pytest.raises(UsageError, match="minimise: objective 7"):
        sampler.solve({}, minimise=7)
    with pytest.raises(UsageError, match="finite number"):
        sampler.solve({0: float("nan")}, minimise=1)
    with pytest.raises(UsageError, match=r"'nihgt'.*did you mean 'night'"):
        sampler.solve({}, minimise=0, slice_limits={"nihgt": 0.1})
    with pytest.raises(UsageError, match="no configuration of the search space"):
        sampler.predict([{"l0": "a"}])


BAD = [
    ({"aim": {4: 1.0}}, "aim: objective 4 does not exist"),
    ({"aim_at": -1}, "aim_at: objective -1"),
    ({"guess": {5: {}}}, "guess: objective 5"),
    ({"guess": {1: {"l99": {"a": 1.0}}}}, "'l99' is no parameter"),
    ({"guess": {1: {"l0": {"z": 1.0}}}}, "no choice 'z'"),
    ({"damage_guess": {"l0": {"z": {"day": 1.0}}}}, "no choice 'z'"),
    ({"damage_guess": {"m0": {}}}, "'m0' is no parameter"),
    ({"worst_objective": None, "aim_slices": {"day": 0.1}}, "worst_objective"),
    ({"edges": [("l0", "x")]}, "'x' is no parameter"),
]


@pytest.mark.parametrize(("more", "message"), BAD)
def test_options_that_do_not_fit_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study_of(1, **more)


def test_limits_must_be_numbers() -> None:
    with pytest.raises(UsageError, match="finite number"):
        SurrogateSampler(aim={0: float("nan")})


class TestAim:
    def test_finds_a_better_one_within_the_limits(self) -> None:
        limit = 0.25 * float(HARM[:, 2].sum(0).max())
        best = {}
        for name, more in {"aim": {"aim": {2: limit}, "aim_at": 0}, "none": {}}.items():
            study, _ = study_of(55, **more)
            inside = [t.values[0] for t in study.trials if t.values[2] <= limit]
            best[name] = min(inside)
        assert best["aim"] <= best["none"]

    def test_is_repeatable_and_proposes_nothing_twice(self) -> None:
        runs = [study_of(40, aim={0: 8.0}, aim_slices={"night": 0.05})[0] for _ in range(2)]
        first, second = ([tuple(t.params.values()) for t in study.trials] for study in runs)
        assert first == second
        assert len(set(first)) == len(first)

    def test_a_slice_that_nobody_measured_is_named(self) -> None:
        with pytest.raises(UsageError, match="'dusk'"):
            study_of(40, aim_slices={"dusk": 0.05})

    def test_a_limit_that_nothing_meets_does_no_harm(self) -> None:
        study, _ = study_of(40, aim={0: 0.01, 2: 0.0})
        assert len({tuple(t.params.values()) for t in study.trials}) == 40


def history_of(n: int, slices: int) -> History:
    rows, drop = np.arange(n), np.tile(np.arange(slices, dtype=float), (n, 1))
    return History(rows[:, None], rows[:, None].astype(float), drop.copy(), drop, tuple(f"s{i}" for i in range(slices)),
                   rows)  # fmt: skip


class TestThinning:
    def test_a_long_history_keeps_its_first_and_its_latest_rows(self) -> None:
        thin = thinned(history_of(1000, 2), 100)
        assert len(thin) == 100
        assert thin.numbers[:25].tolist() == list(range(25))
        assert thin.numbers[-50:].tolist() == list(range(950, 1000))
        assert (np.diff(thin.numbers) > 0).all()
        assert thin.values[:, 0].tolist() == thin.numbers.tolist()

    def test_a_short_one_stays(self) -> None:
        history = history_of(100, 2)
        assert thinned(history, 100) is history

    def test_named_slices_stay_beside_those_that_drop_most(self) -> None:
        few = with_slices(history_of(5, 6), ["s1"], 3)
        assert few.slices == ("s1", "s4", "s5")
        assert few.drop[0].tolist() == [1.0, 4.0, 5.0]
