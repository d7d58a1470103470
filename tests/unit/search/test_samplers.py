"""Samplers by name."""

from __future__ import annotations

import optuna
import pytest

from autotune.errors import UsageError
from autotune.search.samplers import make_sampler, sampler_names
from autotune.search.surrogate import SurrogateSampler


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("surrogate", SurrogateSampler),
        ("tpe", optuna.samplers.TPESampler),
        ("TPESampler", optuna.samplers.TPESampler),
        ("nsgaii", optuna.samplers.NSGAIISampler),
        ("NSGA-II", optuna.samplers.NSGAIISampler),
        ("random", optuna.samplers.RandomSampler),
    ],
)
def test_names(name: str, kind: type) -> None:
    assert type(make_sampler(name, seed=1, options={})) is kind


def test_the_list_has_ours_and_theirs() -> None:
    assert {"surrogate", "tpe", "nsgaii", "gp", "random"} <= set(sampler_names())
    assert "base" not in sampler_names()


def test_options_and_seed_arrive() -> None:
    space = {"a": optuna.distributions.IntDistribution(0, 10**6)}
    values = []
    for _ in range(2):
        sampler = make_sampler("nsgaii", seed=5, options={"population_size": 4})
        values.append(optuna.create_study(sampler=sampler).ask(space).params["a"])
    assert values[0] == values[1]


def test_a_typo_is_answered_with_the_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'surrogate'"):
        make_sampler("surogate", seed=0, options={})


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UsageError, match="no option 'bach'; did you mean 'batch'"):
        make_sampler("surrogate", seed=0, options={"bach": 3})


def test_a_refused_value_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="population_size"):
        make_sampler("nsgaii", seed=0, options={"population_size": 1})
