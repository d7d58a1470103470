"""What a user tells the sampler and it cannot read: one clear line."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import optuna
import pytest

from autotune.errors import UsageError
from autotune.search.surrogate import SurrogateSampler


def cost(trial: optuna.Trial) -> float:
    return float(sum(trial.suggest_categorical(f"x{i}", ["a", "b"]) == "b" for i in range(4)))


def study_with(**options: Any) -> optuna.Study:
    return optuna.create_study(sampler=SurrogateSampler(seed=0, **options))


@pytest.mark.parametrize(
    ("anchor", "hint"),
    [
        ({"x0": "zz"}, "anchor {'x0': 'zz'}: parameter 'x0' has no choice 'zz'; it has 'a', 'b'"),
        ({"x0": ["a"]}, "parameter 'x0' has no choice ['a']; it has 'a', 'b'"),
        ({"y": "a"}, "anchor {'y': 'a'} is no configuration of the search space"),
    ],
)
def test_an_anchor_that_does_not_fit(anchor: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        study_with(anchors=[anchor]).optimize(cost, n_trials=3)
    assert hint in str(refused.value) and "\n" not in str(refused.value)


def test_an_anchor_that_is_no_configuration() -> None:
    with pytest.raises(UsageError, match="anchors: 'x0' is no configuration"):
        study_with(anchors=["x0"])


def test_an_anchor_that_fits_is_tried_first() -> None:
    study = study_with(anchors=[{f"x{i}": "b" for i in range(4)}])
    study.optimize(cost, n_trials=1)
    assert study.trials[0].value == 4.0


@pytest.mark.parametrize(
    ("attr", "told", "hint"),
    [
        ("drop", {"day": "text", "night": 0.1}, "trial 0: the user attribute 'drop' says 'text' of 'day', which is no"),
        ("damage", 0.3, "trial 0: the user attribute 'damage' is 0.3 and no mapping to numbers; it is left out"),
    ],
)
def test_what_is_no_number_is_told(attr: str, told: object, hint: str) -> None:
    study = study_with()
    first = study.ask()
    value = cost(first)
    first.set_user_attr(attr, told)
    study.tell(first, value)
    with pytest.warns(UserWarning) as said:
        cost(study.ask())
    assert [str(each.message)[: len(hint)] for each in said] == [hint]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost(study.ask())  # said once


def test_what_is_not_known_needs_no_warning() -> None:
    study = study_with()
    first = study.ask()
    value = cost(first)
    first.set_user_attr("drop", {"day": None, "night": float("nan"), "dusk": np.float32(0.1)})
    study.tell(first, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost(study.ask())
