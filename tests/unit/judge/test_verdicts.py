"""Verdicts: the right slice, the right word, and few false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from autotune.config import JudgeTable
from autotune.errors import DataError, TrialFailure
from autotune.evaluation import Evaluation
from autotune.judge.metrics import edit_similarity, f1_macro
from autotune.judge.predictions import Predictions
from autotune.judge.verdicts import Scored, judge, slice_results
from autotune.workload import Dataset, Sample


def dataset(n: int, label: Any = 1) -> Dataset:
    empty = np.zeros((1, 1), np.float32)
    return Dataset("search", [Sample(id=str(i), inputs={"x": empty}, label=label) for i in range(n)])


def run(
    data: Dataset,
    original: Sequence[Any],
    candidate: Sequence[Any],
    slices: dict[str, np.ndarray] | None = None,
    metric: Any = "accuracy",
    **table: Any,
) -> Evaluation:
    ids = tuple(sample.id for sample in data.samples)
    return judge(
        artifact="a" * 64,
        target="local",
        dataset=data,
        masks={"all": np.ones(len(ids), bool), **(slices or {})},
        metric=metric,
        original=Predictions(ids, tuple(original), 1.0),
        candidate=Predictions(ids, tuple(candidate), 2.0),
        table=JudgeTable(**table),
        dataset_digest="d",
    )


def blocks(count: int, size: int) -> dict[str, np.ndarray]:
    index = np.arange(count * size)
    return {f"s={i}": index // size == i for i in range(count)}


def test_a_collapsed_slice_is_found_though_the_average_hides_it() -> None:
    n, tags = 1000, blocks(5, 200)
    candidate = np.ones(n, int)
    candidate[:40] = 0  # 20 points of the first slice, 4 points of all
    found = run(dataset(n), [1] * n, candidate.tolist(), tags, limit=0.05)
    assert found.worst_slice == "s=0"
    assert found.slice("s=0").verdict == "fail"
    assert found.slice("s=0").drop.value == pytest.approx(0.2)
    assert found.slice("s=0").flips_worse == 40
    assert found.slice("s=1").verdict == "pass"
    assert found.slice("all").drop.value == pytest.approx(0.04)
    assert found.slice("all").candidate.value == pytest.approx(0.96)
    assert found.seconds == 2.0


def test_flips_are_counted_both_ways_and_cancel_in_the_drop() -> None:
    original = [1] * 90 + [0] * 10
    candidate = [0] * 5 + [1] * 85 + [1] * 5 + [0] * 5
    whole = run(dataset(100), original, candidate).slice("all")
    assert (whole.flips_worse, whole.flips_better, whole.drop.value) == (5, 5, 0.0)
    assert whole.p_value == 1.0


def test_shrinkage_pulls_a_small_slice_towards_the_whole() -> None:
    tags = {"small": np.arange(1000) < 50}
    candidate = [0] * 5 + [1] * 995
    found = run(dataset(1000), [1] * 1000, candidate, tags, shrinkage=50.0)
    small = found.slice("small")
    assert small.drop.value == pytest.approx(0.1)
    assert small.shrunk_drop == pytest.approx(0.5 * 0.1 + 0.5 * 0.005)
    assert found.worst_drop.value == small.shrunk_drop
    assert found.worst_drop.high == pytest.approx((small.drop.high + found.slice("all").drop.high) / 2)
    assert found.worst_drop.low <= found.worst_drop.value <= found.worst_drop.high


def test_a_slice_below_the_floor_never_decides() -> None:
    tags = {"tiny": np.arange(500) < 20, "large": np.arange(500) >= 20}
    found = run(dataset(500), [1] * 500, [0] * 20 + [1] * 480, tags, floor=30)
    assert found.slice("tiny").verdict == "insufficient"
    assert found.slice("tiny").q_value is None
    assert found.slice("tiny").needed is not None
    assert found.slice("tiny").needed >= 10
    assert found.worst_slice == "all"


def test_the_same_answers_pass_only_with_enough_samples() -> None:
    few, many = (run(dataset(n), [1] * n, [1] * n, limit=0.01).slices[0] for n in (200, 400))
    assert (few.verdict, many.verdict) == ("undecided", "pass")
    assert few.needed is not None
    assert 100 <= few.needed <= 300
    assert many.needed is None


def test_a_graded_metric() -> None:
    data = dataset(200, "abcdefghij")
    candidate = ["abcdefghiX"] * 60 + ["abcdefghij"] * 140
    whole = run(data, ["abcdefghij"] * 200, candidate, metric=edit_similarity, limit=0.005).slice("all")
    assert whole.drop.value == pytest.approx(0.03)
    assert whole.drop.low > 0.02
    assert whole.verdict == "fail"
    assert (whole.flips_worse, whole.flips_better) == (60, 0)


def test_a_metric_of_the_whole_has_intervals_and_no_p_value() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200).tolist()
    samples = [Sample(id=str(i), inputs={}, label=label) for i, label in enumerate(labels)]
    worse = [label if rng.random() > 0.15 else (label + 1) % 3 for label in labels]
    found = run(Dataset("search", samples), labels, worse, metric=f1_macro)
    whole = found.slice("all")
    assert found.metric == "f1_macro"
    assert whole.original.value == 1.0
    assert whole.drop.low <= 1 - f1_macro(worse, labels) <= whole.drop.high
    assert whole.drop.low > 0.05
    assert whole.p_value is None
    assert whole.verdict == "fail"
    assert whole.flips_worse == sum(a != b for a, b in zip(worse, labels, strict=True))


def test_outcomes_and_json_round_trip() -> None:
    found = run(dataset(3, "x"), ["x", "y", "x"], ["x", "x", "z"], floor=1)
    assert [(o.id, o.original, o.candidate, o.original_score, o.candidate_score) for o in found.outcomes] == [
        ("0", "x", "x", 1.0, 1.0),
        ("1", "y", "x", 0.0, 1.0),
        ("2", "x", "z", 1.0, 0.0),
    ]
    assert Evaluation.model_validate_json(found.model_dump_json()) == found


def test_predictions_of_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="not those of the search data"):
        judge(
            artifact="a",
            target="local",
            dataset=dataset(2),
            masks={"all": np.ones(2, bool)},
            metric="accuracy",
            original=Predictions(("0", "1"), (1, 1), 0.0),
            candidate=Predictions(("1", "0"), (1, 1), 0.0),
            table=JudgeTable(),
        )


def test_a_broken_metric_fails_the_trial() -> None:
    def broken(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
        return float("nan")

    with pytest.raises(TrialFailure, match="metric 'broken' gave nan"):
        run(dataset(10), [1] * 10, [1] * 10, metric=broken)


def test_few_false_alarms() -> None:
    """30 slices of 500 with 3 % symmetric flips: at most 5 % of runs show any `fail`."""
    rng = np.random.default_rng(5)
    masks = {"all": np.ones(15_000, bool), **blocks(30, 500)}
    alarms = []
    for _ in range(60):
        original, candidate = flipped(rng, 15_000, 0.03)
        results = slice_results(Scored.of_samples(original, candidate), masks, JudgeTable())
        alarms.append(any(result.verdict == "fail" for result in results))
    assert np.mean(alarms) <= 0.1  # 60 runs tell 5 % from 10 % and no better


def test_enough_power() -> None:
    """A true loss of 3 points in 1 of 20 slices of 1,000 is found in at least 80 % of runs."""
    rng = np.random.default_rng(6)
    masks = {"all": np.ones(20_000, bool), **blocks(20, 1000)}
    found = []
    for _ in range(60):
        original, candidate = flipped(rng, 20_000, 0.03)
        lost = rng.random(1000) < 0.03
        original[:1000][lost], candidate[:1000][lost] = 1.0, 0.0
        results = slice_results(Scored.of_samples(original, candidate), masks, JudgeTable())
        found.append({result.name: result.verdict for result in results}["s=0"] == "fail")
    assert np.mean(found) >= 0.75  # 60 runs: +-5 points


def flipped(rng: np.random.Generator, n: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two models of accuracy 0.9 that disagree on some samples, as often this way as that way."""
    original = (rng.random(n) < 0.9).astype(float)
    candidate = original.copy()
    where = np.flatnonzero(rng.random(n) < rate)
    original[where] = rng.integers(0, 2, len(where))
    candidate[where] = 1 - original[where]
    return original, candidate
