"""SurrogateSampler in every kind of Optuna study: storages, threads, resumed, maximised, constrained."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from autotune.search.surrogate import SurrogateSampler

LAYERS, CHOICES = 8, ("a", "b", "c")
RNG = np.random.default_rng(11)
COST = RNG.uniform(1, 3, LAYERS)[:, None] * np.array([1.0, 0.6, 0.3])
HARM = RNG.lognormal(-4, 1, LAYERS)[:, None] * np.array([0.0, 0.2, 1.0])
SPACE: dict[str, BaseDistribution] = {f"l{i}": CategoricalDistribution(CHOICES) for i in range(LAYERS)}
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "sampler_only.py"


def truth(params: dict[str, Any]) -> tuple[float, float]:
    x, rows = np.array([CHOICES.index(params[name]) for name in SPACE]), np.arange(LAYERS)
    return float(COST[rows, x].sum()), float(HARM[rows, x].sum())


def measure(study: optuna.Study, trials: int) -> None:
    for _ in range(trials):
        trial = study.ask(SPACE)
        cost, drop = truth(trial.params)
        trial.set_user_attr("drop", {"all": drop})
        study.tell(trial, [cost, drop])


def configs(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [tuple(trial.params[name] for name in SPACE) for trial in study.trials]


def sampler(**more: Any) -> SurrogateSampler:
    return SurrogateSampler(**({"seed": 0, "worst_objective": 1} | more))


def journal(folder: Path) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))


def sqlite(folder: Path) -> BaseStorage:
    return RDBStorage(f"sqlite:///{folder / 'study.db'}")


def memory(folder: Path) -> BaseStorage:
    return InMemoryStorage()


@pytest.mark.parametrize("storage", [journal, sqlite])
@pytest.mark.parametrize("more", [{}, {"aim": {1: 0.05}}])
def test_a_stored_study_is_resumed_with_the_same_proposals(
    storage: Callable[[Path], BaseStorage], more: dict[str, Any], tmp_path: Path
) -> None:
    whole = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(**more))
    measure(whole, 32)
    stored = optuna.create_study(
        directions=["minimize"] * 2, sampler=sampler(**more), storage=storage(tmp_path), study_name="s"
    )
    measure(stored, 27)
    again = optuna.load_study(study_name="s", storage=storage(tmp_path), sampler=sampler(**more))
    measure(again, 5)
    assert configs(again) == configs(whole)


@pytest.mark.parametrize("storage", [memory, journal, sqlite])
def test_two_threads(storage: Callable[[Path], BaseStorage], tmp_path: Path) -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(aim={1: 0.05}), storage=storage(tmp_path))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        return truth({name: trial.suggest_categorical(name, CHOICES) for name in SPACE})

    study.optimize(objective, n_trials=30, n_jobs=2)
    assert len(study.trials) == 30
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_maximised_objectives_are_mirrored() -> None:
    """The same problem, told the other way round, gets the same proposals."""
    found = []
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        mirrored = SurrogateSampler(seed=0, aim={1: sign * 0.1}, limits={0: sign * 12.0})
        study = optuna.create_study(directions=[direction] * 2, sampler=mirrored)
        for _ in range(36):
            trial = study.ask(SPACE)
            study.tell(trial, [sign * value for value in truth(trial.params)])
        found.append(configs(study))
    assert found[0] == found[1]


def test_a_single_objective_with_an_aim() -> None:
    study = optuna.create_study(direction="maximize", sampler=SurrogateSampler(seed=0, aim={}, aim_at=0))
    study.optimize(
        lambda t: -sum(np.multiply(truth({n: t.suggest_categorical(n, CHOICES) for n in SPACE}), (1, 20))), n_trials=36
    )
    best = (COST + 20 * HARM).min(1).sum()
    assert -study.best_value == pytest.approx(best, rel=0.02)


def test_what_breaks_a_constraint_informs() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(reference=[20.0, 0.5]))
    for _ in range(36):
        trial = study.ask(SPACE)
        cost, drop = truth(trial.params)
        trial.set_constraint("cost", 8.0 - cost)  # everything cheap is forbidden
        trial.set_user_attr("drop", {"all": drop})
        study.tell(trial, [cost, drop])
    broken = [trial for trial in study.trials if trial.constraints["cost"] > 0]
    learnt = study.sampler
    assert isinstance(learnt, SurrogateSampler)
    assert learnt.predict([broken[-1].params])[0] == pytest.approx(broken[-1].values, rel=0.1, abs=0.01)


def test_the_front_of_the_proposals_leaves_out_what_breaks_a_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotune.search.surrogate import sampler as module

    seen: list[np.ndarray] = []

    class Noted(module.Proposer):
        def propose(self, count: int, *, explore: int = 0) -> np.ndarray:
            seen.append(self.measured)
            return super().propose(count, explore=explore)

    monkeypatch.setattr(module, "Proposer", Noted)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler())
    for number in range(30):
        trial = study.ask(SPACE)
        trial.set_constraint("even", number % 2)
        study.tell(trial, truth(trial.params))
    assert seen
    odd = {tuple(CHOICES.index(v) for v in config) for config in configs(study)[1::2]}
    assert not any(tuple(row) in odd for rows in seen for row in rows.tolist())


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "best measured in 60 trials" in printed
    assert "predicted best" in printed
