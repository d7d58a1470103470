"""SurrogateSampler in real Optuna studies."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from autotune.errors import UsageError
from autotune.search.surrogate import SurrogateSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)
LAYERS, CHOICES, SLICES = 12, ("fp16", "int8", "int4"), 3


class Network:
    """A small network with the structure that the sampler believes in: size, latency, worst drop."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.size = rng.lognormal(0, 1, LAYERS)[:, None] * np.array([1.0, 0.5, 0.25])
        self.time = rng.lognormal(0, 0.5, LAYERS)[:, None] * np.array([1.0, 0.7, 0.6])
        self.harm = rng.lognormal(-4, 1.2, (LAYERS, 1, SLICES)) * np.array([0.0, 0.08, 1.0])[None, :, None]
        self.space: dict[str, BaseDistribution] = {f"layer{i}": CategoricalDistribution(CHOICES) for i in range(LAYERS)}

    def config(self, params: dict[str, Any]) -> np.ndarray:
        return np.array([CHOICES.index(params[f"layer{i}"]) for i in range(LAYERS)])

    def values(self, params: dict[str, Any]) -> tuple[list[float], dict[str, float], dict[str, float]]:
        x, rows = self.config(params), np.arange(LAYERS)
        damage = self.harm[rows, x].sum(0)
        drop = 0.6 * (1 - np.exp(-damage / 0.6))
        latency = self.time[rows, x].sum() + 0.05 * (x[1:] != x[:-1]).sum()
        names = [f"s{i}" for i in range(SLICES)]
        objectives = [float(self.size[rows, x].sum()), float(latency), float(drop.max())]
        return objectives, dict(zip(names, damage.tolist(), strict=True)), dict(zip(names, drop.tolist(), strict=True))

    def exact(self) -> dict[int, dict[str, dict[Any, float]]]:
        return {0: {f"layer{i}": dict(zip(CHOICES, self.size[i].tolist(), strict=True)) for i in range(LAYERS)}}

    def sampler(self, **options: Any) -> SurrogateSampler:
        return SurrogateSampler(**{"seed": 0, "exact": self.exact(), "worst_objective": 2} | options)


def run(
    network: Network, sampler: optuna.samplers.BaseSampler, trials: int, study: optuna.Study | None = None
) -> optuna.Study:
    if study is None:
        study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for _ in range(trials):
        trial = study.ask(network.space)
        values, damage, drop = network.values(trial.params)
        trial.set_user_attr("damage", damage)
        trial.set_user_attr("drop", drop)
        study.tell(trial, values)
    return study


def all_params(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [tuple(sorted(trial.params.items())) for trial in study.trials]


def test_begins_with_the_uniform_configurations() -> None:
    study = run(Network(), Network().sampler(), 3)
    assert [set(trial.params.values()) for trial in study.trials] == [{"fp16"}, {"int8"}, {"int4"}]


def test_given_anchors_come_first() -> None:
    network = Network()
    anchor = dict.fromkeys(network.space, "int8") | {"layer3": "fp16"}
    study = run(network, network.sampler(anchors=[anchor]), 1)
    assert study.trials[0].params == anchor


def test_is_far_ahead_of_random() -> None:
    network = Network(1)
    reference = [float(network.size[:, 0].sum()), 20.0, 0.1]
    found = {}
    for sampler in (network.sampler(reference=reference), optuna.samplers.RandomSampler(seed=0)):
        study = run(network, sampler, 45)
        points = np.array([t.values for t in study.trials])
        ours = points[(points[:, 2] < 0.01)]
        found[type(sampler).__name__] = ours[:, 0].min(initial=reference[0])
    assert found["SurrogateSampler"] < 0.75 * found["RandomSampler"]


def test_same_seed_same_proposals() -> None:
    first, second = (all_params(run(Network(), Network().sampler(), 32)) for _ in range(2))
    assert first == second
    other = all_params(run(Network(), Network().sampler(seed=1), 32))
    assert other != first


@pytest.mark.parametrize("killed_after", [2, 10, 27, 31])
def test_a_resumed_search_goes_on_as_if_never_killed(killed_after: int) -> None:
    whole = all_params(run(Network(), Network().sampler(), 36))
    study = run(Network(), Network().sampler(), killed_after)
    resumed = optuna.create_study(directions=["minimize"] * 3, sampler=Network().sampler())
    resumed.add_trials(study.trials)
    assert all_params(run(Network(), resumed.sampler, 36 - killed_after, resumed)) == whole


def test_proposes_nothing_twice_though_trials_run_and_fail() -> None:
    network = Network()
    study = optuna.create_study(directions=["minimize"] * 3, sampler=network.sampler())
    for number in range(40):
        trial = study.ask(network.space)
        if number % 5 == 1:
            study.tell(trial, state=TrialState.FAIL)
        elif number % 5 != 2:  # every fifth stays running for ever
            study.tell(trial, network.values(trial.params)[0])
    configs = all_params(study)
    assert len(set(configs)) == len(configs)


def test_a_small_space_is_covered_completely_then_repeats() -> None:
    space = {"a": CategoricalDistribution(["x", "y", "z"]), "b": CategoricalDistribution([1, 2])}
    study = optuna.create_study(sampler=SurrogateSampler(seed=3))
    for _ in range(8):
        trial = study.ask(space)
        study.tell(trial, float(trial.params["b"]) + len(trial.params["a"]))
    configs = all_params(study)
    assert len(set(configs[:6])) == 6
    assert len(configs) == 8


def test_pruned_trials_teach_what_they_know() -> None:
    network = Network()
    sampler = network.sampler(limits={2: 0.02})
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for number in range(30):
        trial = study.ask(network.space)
        values, damage, drop = network.values(trial.params)
        trial.set_user_attr("damage", damage)
        if number > 2 and values[2] > 0.02:
            trial.set_user_attr("observed", {"0": values[0]})
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("drop", drop)
            study.tell(trial, values)
    late = study.trials[20:]
    assert sum(t.state == TrialState.COMPLETE for t in late) >= 4  # it has learnt what is hopeless


def test_only_objectives_and_both_directions() -> None:
    """Without damage and drops, with one objective maximised."""
    network = Network(2)
    areas = []
    for sampler in (SurrogateSampler(seed=0), optuna.samplers.RandomSampler(seed=0)):
        study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
        for _ in range(45):
            trial = study.ask(network.space)
            values, _, _ = network.values(trial.params)
            study.tell(trial, [values[0], 1.0 - values[2]])
        areas.append(area([t.values for t in study.trials], (float(network.size[:, 0].sum()), 0.5)))
    assert areas[0] > 1.2 * areas[1]


def area(points: Sequence[Sequence[float]], corner: tuple[float, float]) -> float:
    """Hypervolume of (minimised, maximised) points."""
    total, best = 0.0, corner[1]
    for i, (low, high) in enumerate(ordered := sorted((p for p in points if p[0] < corner[0]), key=lambda p: p[0])):
        best = max(best, high)
        following = ordered[i + 1][0] if i + 1 < len(ordered) else corner[0]
        total += (following - low) * (best - corner[1])
    return total


def test_worst_objective_without_slices() -> None:
    network = Network(2)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=network.sampler())
    for _ in range(32):
        trial = study.ask(network.space)
        study.tell(trial, network.values(trial.params)[0])
    assert len(set(all_params(study))) == 32


def test_one_objective_is_minimised() -> None:
    network = Network(4)
    study = optuna.create_study(sampler=SurrogateSampler(seed=0))

    def cost(trial: optuna.Trial) -> float:
        values = network.values({name: trial.suggest_categorical(name, CHOICES) for name in network.space})[0]
        return values[1] + 20 * values[2]

    study.optimize(cost, n_trials=45)
    best_random = min(
        network.values({n: CHOICES[i] for n, i in zip(network.space, x, strict=True)})[0]
        for x in np.random.default_rng(0).integers(0, 3, (2000, LAYERS))
    )
    assert study.best_value < best_random[1] + 20 * best_random[2]


@pytest.mark.parametrize(("layers", "choices", "slices"), [(1, 2, 0), (5, 10, 30), (200, 4, 2)])
def test_any_shape(layers: int, choices: int, slices: int) -> None:
    rng = np.random.default_rng(0)
    harm = rng.lognormal(-5, 1, (layers, choices, max(slices, 1)))
    harm[:, 0] = 0
    space = {f"p{i}": CategoricalDistribution(list(range(choices))) for i in range(layers)}
    sampler = SurrogateSampler(seed=0, worst_objective=1)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    for _ in range(28):
        trial = study.ask(space)
        x = np.array(list(trial.params.values()))
        drop = harm[np.arange(layers), x].sum(0)
        if slices:
            trial.set_user_attr("damage", {str(s): float(d) for s, d in enumerate(drop)})
            trial.set_user_attr("drop", {str(s): float(d) for s, d in enumerate(drop)})
        study.tell(trial, [float((choices - x).sum()), float(drop.max())])
    assert len(set(all_params(study))) == min(28, choices**layers)


def test_parameters_of_different_kinds_and_define_by_run() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        cost = drop = 0.0
        for i in range(4):
            conv = trial.suggest_categorical(f"conv{i}", ["none", "int8"])
            bits = trial.suggest_categorical(f"mm{i}", ["none", "w8", "w4"])
            rank = trial.suggest_int(f"rank{i}", 8, 64, step=8)
            cost += (conv == "none") + {"none": 2, "w8": 1, "w4": 0.5}[bits] + rank / 64
            drop += (conv == "int8") * 0.1 * i + {"none": 0, "w8": 0.1, "w4": 0.5}[bits] + 1 / rank
        return cost, drop

    study = optuna.create_study(directions=["minimize"] * 2, sampler=SurrogateSampler(seed=0))
    study.optimize(objective, n_trials=40)
    assert len(set(all_params(study))) == 40


def test_conditional_parameters_are_sampled_apart() -> None:
    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["a", "b"])
        return float(trial.suggest_int(f"only {kind}", 1, 9))

    study = optuna.create_study(sampler=SurrogateSampler(seed=0))
    study.optimize(objective, n_trials=15)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_health_is_reported_after_two_batches() -> None:
    network = Network()
    sampler = network.sampler()
    study = run(network, sampler, 20)
    assert sampler.health() is None
    run(network, sampler, 16, study)
    health = sampler.health()
    assert health is not None
    assert health.n == 10
    assert health.rank_correlation[0] == pytest.approx(1.0)  # exact sizes
    assert health.relative_error[0] == pytest.approx(0.0, abs=1e-9)
    assert health.relative_error[1] < 0.05


def test_survives_pickling_and_threads() -> None:
    network = Network()
    sampler = pickle.loads(pickle.dumps(network.sampler()))
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    study.optimize(
        lambda t: network.values({n: t.suggest_categorical(n, CHOICES) for n in network.space})[0],
        n_trials=24, n_jobs=2,
    )  # fmt: skip
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_infinite_objectives_are_not_believed() -> None:
    network = Network()
    study = optuna.create_study(directions=["minimize"] * 3, sampler=network.sampler())
    for number in range(26):
        trial = study.ask(network.space)
        values = network.values(trial.params)[0]
        study.tell(trial, [values[0], float("inf") if number % 4 == 3 else values[1], values[2]])
    assert len(set(all_params(study))) == 26


BAD: Sequence[tuple[Callable[[], SurrogateSampler], str]] = [
    (lambda: SurrogateSampler(batch=0), "batch"),
    (lambda: SurrogateSampler(explore=1.0), "explore"),
    (lambda: SurrogateSampler(worst_objective=2), "worst_objective 2 does not exist"),
    (lambda: SurrogateSampler(worst_objective=1), "must be minimised"),
    (lambda: SurrogateSampler(reference=[1.0]), "reference has 1"),
    (lambda: SurrogateSampler(limits={5: 1.0}), "objective 5 does not exist"),
    (lambda: SurrogateSampler(exact={0: {"typo": {}}}), "'typo'"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_arguments_that_do_not_fit_are_named(make: Callable[[], SurrogateSampler], message: str) -> None:
    space: dict[str, BaseDistribution] = {"a": CategoricalDistribution(["x", "y"])}
    with pytest.raises(UsageError, match=message):
        sampler = make()
        sampler._given_space = space
        optuna.create_study(directions=["minimize", "maximize"], sampler=sampler).ask(space)


def test_a_float_is_refused() -> None:
    study = optuna.create_study(sampler=SurrogateSampler(seed=0))
    with pytest.raises(UsageError, match="'lr'"):
        study.ask({"lr": FloatDistribution(0.0, 1.0)})
