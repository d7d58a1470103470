"""Metrics: by name or callable, decomposable or not, and what is said when they do something silly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from autotune.errors import TrialFailure, UsageError
from autotune.judge.metrics import ResolvedMetric, accuracy, edit_similarity, f1_macro, resolve_metric

LABELS = ["a", "b", "c", "a", "b", "c", "a", "a"]
ANSWERS = ["a", "b", "a", "a", "c", "c", "a", "b"]


def test_accuracy_is_found_by_its_registered_name() -> None:
    metric = resolve_metric("accuracy")
    assert metric.name == "accuracy"
    assert metric(ANSWERS, LABELS) == 5 / 8
    assert metric.score("a", "b") == 0.0


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'accuracy'"):
        resolve_metric("acuracy")


def test_a_callable_keeps_its_name_and_nonsense_is_refused() -> None:
    assert resolve_metric(f1_macro).name == "f1_macro"
    assert resolve_metric(resolve_metric(f1_macro)).function is f1_macro
    with pytest.raises(UsageError, match="neither a name nor callable"):
        resolve_metric(3)


def test_accuracy_compares_lists_and_numpy_scalars() -> None:
    assert accuracy([[1, 2], [3]], [[1, 2], [4]]) == 0.5
    assert accuracy([1, 2], [np.int64(1), np.int64(3)]) == 0.5
    assert accuracy([[1, 2]], [np.array([1, 2])]) == 1.0


def test_f1_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 5, 200).tolist(), rng.integers(0, 6, 200).tolist()
    assert f1_macro(answers, labels) == pytest.approx(f1_score(labels, answers, average="macro"))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("kitten", "sitting", 1 - 3 / 7), ("", "", 1.0), ("", "ab", 0.0), ("same", "same", 1.0), ("abc", "acb", 1 / 3)],
)
def test_edit_similarity(one: str, other: str, expected: float) -> None:
    assert edit_similarity([one], [other]) == pytest.approx(expected)


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_edit_distance_is_a_distance(a: str, b: str, c: str) -> None:
    def distance(x: str, y: str) -> float:
        return (1 - edit_similarity([x], [y])) * max(len(x), len(y))

    assert distance(a, b) == pytest.approx(distance(b, a))
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-9


def test_which_metrics_are_means_of_single_samples() -> None:
    assert resolve_metric(accuracy).decomposable(ANSWERS, LABELS)
    assert resolve_metric(edit_similarity).decomposable(ANSWERS, LABELS)
    assert not resolve_metric(f1_macro).decomposable(ANSWERS, LABELS)


def test_f1_is_found_out_although_every_answer_is_right() -> None:
    assert not resolve_metric(f1_macro).decomposable(LABELS, LABELS)


def test_a_metric_without_a_value_for_one_sample_is_not_decomposable() -> None:
    def correlation(predictions: Sequence[float], labels: Sequence[float]) -> float:
        if len(labels) < 2:
            raise LookupError("one point has no correlation")
        return float(np.corrcoef(predictions, labels)[0, 1])

    assert not resolve_metric(correlation).decomposable([1.0, 2.0, 4.0], [1.0, 3.0, 3.5])


def _raises(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    raise KeyError("no such\nclass")


def _exits(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raises, "metric '_raises' raised KeyError: 'no such\\nclass'; it was given 8 predictions, the first one 'a'"),
        (_exits, "metric '_exits' raised SystemExit: 3"),
        (lambda p, y: float("nan"), "gave nan; it must give a finite number"),
        (lambda p, y: float("inf"), "gave inf; it must give a finite number"),
        (lambda p, y: "0.9", "gave '0.9' of type str; it must give one number"),
        (lambda p, y: np.zeros(3), "of type ndarray; it must give one number"),
    ],
)
def test_a_metric_that_does_something_silly_is_one_line(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(TrialFailure) as caught:
        resolve_metric(function)(ANSWERS, LABELS)
    failure = caught.value.failure
    assert failure.kind == "user_code"
    assert message in failure.message
    assert "\n" not in failure.message


def test_the_traceback_of_user_code_is_kept() -> None:
    with pytest.raises(TrialFailure) as caught:
        ResolvedMetric("mine", _raises)(ANSWERS, LABELS)
    assert "in _raises" in str(caught.value.failure.traceback)


def test_numpy_numbers_are_numbers() -> None:
    value = resolve_metric(lambda p, y: np.float32(0.5))(ANSWERS, LABELS)
    assert value == 0.5
    assert type(value) is float
