"""The metrics that come with the package, against those of scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score

from autotune.errors import TrialFailure
from autotune.judge import scoring
from autotune.judge.metrics import resolve_metric

rng = np.random.default_rng(0)
TRUTH = rng.normal(size=60).tolist()
GUESS = [t + e for t, e in zip(TRUTH, rng.normal(scale=0.5, size=60), strict=True)]
BITS = rng.integers(0, 2, 60).tolist()


def test_f1_agrees_with_scikit_learn() -> None:
    answers = rng.integers(0, 2, 60).tolist()
    assert scoring.f1(answers, BITS) == pytest.approx(f1_score(BITS, answers))
    assert scoring.f1([0, 0], [0, 0]) == 0.0
    assert scoring.f1([True, False], [True, True]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="f1 is for classes 0 and 1, not 2"):
        scoring.f1([2, 1], [1, 1])


def test_correlations_agree_with_scipy() -> None:
    assert scoring.pearson(GUESS, TRUTH) == pytest.approx(stats.pearsonr(GUESS, TRUTH).statistic)
    assert scoring.spearman(GUESS, TRUTH) == pytest.approx(stats.spearmanr(GUESS, TRUTH).statistic)


@pytest.mark.parametrize("function", [scoring.pearson, scoring.spearman])
def test_a_constant_has_no_correlation(function: object) -> None:
    with pytest.raises(TrialFailure, match="gave nan; it must give a finite number"):
        resolve_metric(function)([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])  # type: ignore[arg-type]


def test_average_precision_agrees_with_scikit_learn() -> None:
    ties = np.round(GUESS, 1).tolist()
    for scores in (GUESS, ties):
        assert scoring.average_precision(scores, BITS) == pytest.approx(average_precision_score(BITS, scores))
    with pytest.raises(ValueError, match="at least one label 1"):
        scoring.average_precision([0.1, 0.2], [0, 0])


def test_mean_average_precision() -> None:
    assert scoring.mean_average_precision([["a", "b", "c"]], [{"a", "c"}]) == pytest.approx((1 + 2 / 3) / 2)
    assert scoring.mean_average_precision([["b"], [], ["a"]], [["a"], [], []]) == pytest.approx(1 / 3)
    assert scoring.mean_average_precision([["a", "a"]], [["a"]]) == 1.0
    assert resolve_metric(scoring.mean_average_precision).decomposable([["a"], ["b", "a"]], [["a"], ["a"]])


def test_error_rates() -> None:
    assert scoring.character_accuracy(["abcd", "xy"], ["abce", "xyzz"]) == pytest.approx(1 - 3 / 8)
    assert scoring.word_accuracy(["the cat"], ["the dog sat"]) == pytest.approx(1 - 2 / 3)
    assert scoring.character_accuracy(["far too long"], ["x"]) < 0
    with pytest.raises(ValueError, match="labels that are not empty"):
        scoring.word_accuracy(["a"], [""])


def test_exact_match_looks_past_case_and_space() -> None:
    assert scoring.exact_match([" New  York", "Rome"], ["new york", "Roma"]) == 0.5


def test_errors_are_larger_when_better() -> None:
    assert scoring.negative_mae([1.0, 3.0], [1.0, 1.0]) == -1.0
    assert scoring.negative_rmse([1.0, 3.0], [1.0, 1.0]) == pytest.approx(-(2**0.5))


def test_labels_of_the_wrong_length_are_one_line() -> None:
    with pytest.raises(TrialFailure, match="2 predictions for 1 labels"):
        resolve_metric(scoring.accuracy)(["a", "b"], ["a"])


def test_unequal_lengths_are_refused_by_every_metric_on_arrays() -> None:
    for function in (scoring.pearson, scoring.spearman, scoring.negative_mae, scoring.negative_rmse):
        with pytest.raises(TrialFailure, match="raised ValueError"):
            resolve_metric(function)([1.0, 2.0, 3.0], [1.0, 2.0])
