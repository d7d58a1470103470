"""Optuna's own conformance suite, and every sampler by name in a study like ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.trial import TrialState

from autotune.errors import UsageError
from autotune.search.samplers import make_sampler
from autotune.search.surrogate import SurrogateSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Surrogate:
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SurrogateSampler(seed=0)


def _discrete(case: type) -> dict[str, Any]:
    """The tests of a suite that use no float: those are refused, see test_floats_are_refused."""
    floats = [
        "float", "int", "nan_objective_value", "partial_fixed_sampling", "single_parameter_objective",
        "conditional_parameter_objective", "combination_of_different_distributions_objective",
        "dynamic_range_objective",
    ]  # fmt: skip
    return {f"test_{name}": None for name in floats if hasattr(case, f"test_{name}")}


TestBasic = type("TestBasic", (_Surrogate, BasicSamplerTestCase), _discrete(BasicSamplerTestCase))


class TestSeveralObjectives(_Surrogate, MultiObjectiveSamplerTestCase):
    @pytest.mark.parametrize(
        "distribution", [IntDistribution(0, 10), IntDistribution(0, 10, step=2), CategoricalDistribution((1, 2, "c"))]
    )
    def test_multi_objective_sample_independent(self, sampler: Callable[[], BaseSampler], distribution: Any) -> None:
        super().test_multi_objective_sample_independent(sampler, distribution)


def test_floats_are_refused() -> None:
    study = optuna.create_study(sampler=SurrogateSampler(seed=0))
    with pytest.raises(UsageError, match="categorical and int"):
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)


@pytest.mark.parametrize("name", ["surrogate", "tpe", "nsgaii", "nsgaiii", "random", "qmc"])
def test_a_study_like_ours(name: str) -> None:
    """Two objectives, complete, pruned and failed trials, asked and told."""
    space = {f"quantize:l{i}": CategoricalDistribution(["none", "int8", "int4"]) for i in range(6)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = make_sampler(name, seed=0, options={})
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    for number in range(24):
        trial = study.ask(space)
        low = sum(v != "none" for v in trial.params.values())
        if number % 6 == 4:
            study.tell(trial, state=TrialState.FAIL)
        elif number % 6 == 5:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [6.0 - low, low**2 / 10])
    assert len(study.trials) == 24
    assert all(set(t.params) == set(space) for t in study.trials)
