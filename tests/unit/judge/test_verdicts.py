"""Verdicts: the right slice, the right word, and few false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from autotune.config import JudgeTable
from autotune.errors import DataError, TrialFailure
from autotune.evaluation import Evaluation
from autotune.judge import spending
from autotune.judge.metrics import edit_similarity, f1_macro, resolve_metrics
from autotune.judge.predictions import Predictions
from autotune.judge.scores import Scored
from autotune.judge.scoring import average_precision, negative_mae, pearson
from autotune.judge.verdicts import Judgement, judge
from autotune.workload import Dataset, Sample, Task


def dataset(n: int, label: Any = 1) -> Dataset:
    empty = np.zeros((1, 1), np.float32)
    return Dataset("search", [Sample(id=str(i), inputs={"x": empty}, label=label) for i in range(n)])


def run(
    data: Dataset,
    original: Sequence[Any],
    candidate: Sequence[Any],
    slices: dict[str, np.ndarray] | None = None,
    metric: Any = "accuracy",
    beside: dict[str, Any] | None = None,
    confidence: tuple[Sequence[float], Sequence[float]] | None = None,
    divergence: Sequence[float] | None = None,
    **table: Any,
) -> Evaluation:
    ids = tuple(sample.id for sample in data.samples)
    return judge(
        artifact="a" * 64,
        target="local",
        dataset=data,
        masks={"all": np.ones(len(ids), bool), **(slices or {})},
        metrics=resolve_metrics(metric),
        original=Predictions(ids, tuple(original), 1.0, confidence=tuple(confidence[0]) if confidence else None),
        candidate=Predictions(
            ids,
            tuple(candidate),
            2.0,
            confidence=tuple(confidence[1]) if confidence else None,
            divergence=tuple(divergence) if divergence is not None else None,
        ),
        table=JudgeTable(**{"floor": 30, **table}),
        dataset_digest="d",
        **(beside or {}),
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


def test_a_loss_that_stands_out_is_kept_and_one_that_does_not_is_shrunk() -> None:
    rng = np.random.default_rng(1)
    original, candidate = flipped(rng, 10_000, 0.03)
    tags = blocks(20, 500)
    quiet = run(dataset(10_000), original.tolist(), candidate.tolist(), tags)
    largest = max(r.drop.value for r in quiet.slices)
    assert quiet.worst_raw is not None
    assert quiet.worst_raw.value == largest
    assert quiet.worst_drop.value < 0.7 * largest
    candidate[:50] = 1.0 - original[:50]
    original[:50], candidate[:50] = 1.0, 0.0
    loud = run(dataset(10_000), original.tolist(), candidate.tolist(), tags)
    assert loud.worst_slice == "s=0"
    assert loud.slice("s=0").shrunk_drop > 0.9 * loud.slice("s=0").drop.value
    assert loud.worst_drop.value == pytest.approx(loud.slice("s=0").drop.value, rel=0.1)
    assert loud.worst_drop.low <= loud.worst_drop.value <= loud.worst_drop.high
    assert loud.worst_drop.high == max(r.drop.high for r in loud.slices)


def test_the_original_against_itself_loses_nothing() -> None:
    same = run(dataset(1000), [1] * 1000, [1] * 1000, blocks(5, 200))
    assert same.worst_drop.value == pytest.approx(0.0, abs=1e-9)
    assert [r.shrunk_drop for r in same.slices] == pytest.approx([0.0] * 6, abs=2e-3)


def test_a_slice_below_the_floor_does_not_decide_by_a_few_losses() -> None:
    tags = {"tiny": np.arange(500) < 20, "large": np.arange(500) >= 20}
    found = run(dataset(500), [1] * 500, [0] * 5 + [1] * 495, tags, floor=30)
    assert found.slice("tiny").verdict == "insufficient"
    assert found.slice("tiny").q_value is None
    assert found.slice("tiny").needed is not None
    assert found.slice("tiny").needed >= 10
    assert found.worst_slice == "all"


def test_a_collapse_below_the_floor_is_certain() -> None:
    tags = {"tiny": np.arange(2000) < 20, "large": np.arange(2000) >= 20}
    found = run(dataset(2000), [1] * 2000, [0] * 20 + [1] * 1980, tags, limit=0.05)
    tiny = found.slice("tiny")
    assert (tiny.verdict, tiny.q_value, tiny.needed) == ("fail", None, None)
    assert (found.worst_slice, found.slice("large").verdict) == ("tiny", "pass")
    assert 0.05 <= found.worst_drop.low <= found.worst_drop.value <= found.worst_drop.high
    allowed = run(dataset(2000), [1] * 2000, [0] * 20 + [1] * 1980, tags, limit=0.05, beside={"limits": {"tiny": 0.9}})
    assert allowed.slice("tiny").verdict == "insufficient", "20 of 20 do not show that more than 90 % are lost"
    assert allowed.worst_slice != "tiny"


def test_few_graded_samples_fail_and_a_metric_of_the_whole_does_not() -> None:
    tags = {"tiny": np.arange(400) < 28}
    lost = run(dataset(400, "ab"), ["ab"] * 400, ["xb"] * 28 + ["ab"] * 372, tags, edit_similarity, limit=0.02)
    assert lost.slice("tiny").verdict == "fail"
    labels = np.random.default_rng(3).integers(0, 3, 400).tolist()
    samples = [Sample(id=str(i), inputs={}, label=label) for i, label in enumerate(labels)]
    answers = [(label + 1) % 3 if i < 28 else label for i, label in enumerate(labels)]
    whole = run(Dataset("search", samples), labels, answers, tags, f1_macro, limit=0.02)
    assert whole.slice("tiny").verdict == "insufficient"


def test_one_of_several_models_needs_more_to_pass_and_to_fail() -> None:
    """The same data that decide for one model do not for one of four that are chosen among."""
    alone, one_of_four = (
        run(dataset(n), [1] * n, [1] * n, limit=0.01, beside=beside).slices[0].verdict
        for n in (400,)
        for beside in ({}, {"share": 0.25})
    )
    assert (alone, one_of_four) == ("pass", "undecided")
    lost = [0] * 8 + [1] * 992
    single, shared = (run(dataset(1000), [1] * 1000, lost, beside=b) for b in ({}, {"share": 0.25}))
    assert shared.share == 0.25
    assert shared.slices[0].q_value == pytest.approx(4 * (single.slices[0].q_value or 0))
    assert shared.slices[0].drop == single.slices[0].drop, "the interval of a slice stays at 95 %"
    assert shared.worst_drop.high > single.worst_drop.high


def test_choosing_among_models_is_paid_for() -> None:
    """The first model that passes is shipped. Six bad ones (a true loss on the limit) are tried on the same data."""
    rng, n, limit, planned = np.random.default_rng(11), 2000, 0.02, 3
    masks = {"all": np.ones(n, bool)}
    shipped = {True: 0, False: 0}
    for _ in range(300):
        original = np.ones(n)
        models = [(rng.random(n) >= limit).astype(float) for _ in range(6)]
        for corrected in shipped:
            parts = [spending.share(place, planned) if corrected else 1.0 for place in range(6)]
            shipped[corrected] += any(
                Judgement.of({"accuracy": Scored.of_samples(original, each)}, masks, JudgeTable(limit=limit), {}, part)
                .results[0]
                .verdict
                == "pass"
                for each, part in zip(models, parts, strict=True)
            )
    assert shipped[True] / 300 <= 0.05  # 2.5 % and what 300 runs cannot tell from it
    assert shipped[False] / 300 >= 0.07


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


def test_a_metric_of_the_whole_has_intervals_and_p_values() -> None:
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
    assert whole.p_value is not None and whole.p_value < 0.01
    assert whole.q_value is not None and whole.q_value < 0.01
    assert run(Dataset("search", samples), labels, labels, metric=f1_macro).slice("all").p_value == 1.0
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
            metrics=resolve_metrics("accuracy"),
            original=Predictions(("0", "1"), (1, 1), 0.0),
            candidate=Predictions(("1", "0"), (1, 1), 0.0),
            table=JudgeTable(),
        )


def test_a_broken_metric_fails_the_trial() -> None:
    def broken(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
        return float("nan")

    with pytest.raises(TrialFailure, match="metric 'broken' gave nan"):
        run(dataset(10), [1] * 10, [1] * 10, metric=broken)


def test_several_metrics_share_one_family() -> None:
    n, tags = 400, blocks(2, 200)
    labels = [{"sign": i % 2, "text": "abcd"} for i in range(n)]
    samples = [Sample(id=str(i), inputs={}, label=label) for i, label in enumerate(labels)]
    candidate = [{**label, "text": "abXX"} if i < 150 else label for i, label in enumerate(labels)]
    metric = {"sign": Task("sign"), "text": Task("text", "edit_similarity"), "f1": Task("sign", f1_macro)}
    found = run(Dataset("search", samples), labels, candidate, tags, metric=metric)
    names = [r.name for r in found.slices]
    assert names == ["all", "s=0", "s=1", "text:all", "text:s=0", "text:s=1", "f1:all", "f1:s=0", "f1:s=1"]
    assert [r.metric for r in found.slices] == [""] * 3 + ["text"] * 3 + ["f1"] * 3
    assert found.metric == "sign"
    assert found.worst_slice == "text:s=0"
    assert found.slice("text:s=0").verdict == "fail"
    assert found.slice("text:s=0").drop.value == pytest.approx(0.375)
    assert found.slice("s=0").drop.value == found.slice("f1:s=0").drop.value == 0
    assert found.slice("s=0").q_value == 1.0


def test_a_task_that_is_not_in_a_prediction_is_one_line() -> None:
    with pytest.raises(TrialFailure, match="of the task 'sign', but a prediction or label has no such key"):
        run(dataset(40, {"sign": 1}), [{"text": 1}] * 40, [{"text": 1}] * 40, metric={"sign": Task("sign")})


def test_every_slice_has_its_own_limit_and_its_own_story() -> None:
    tags = blocks(2, 1000)
    candidate = [0] * 30 + [1] * 970 + [0] * 30 + [1] * 970
    found = run(
        dataset(2000),
        [1] * 2000,
        candidate,
        tags,
        beside={
            "limits": {"s=0": 0.06},
            "kinds": {"s=0": "discovered"},
            "hypotheses": ("s=0",),
            "noise": {"s=1": 0.04, "s=0": 0.01},
            "damage": {"s=0": 0.5},
        },
    )
    first, second = found.slice("s=0"), found.slice("s=1")
    assert (first.verdict, second.verdict) == ("pass", "fail")
    assert (first.limit, second.limit) == (0.06, None)
    assert (first.kind, first.hypothesis, second.kind, second.hypothesis) == ("discovered", True, "declared", False)
    assert (first.within_noise, second.within_noise) == (False, True)
    assert (first.noise, found.slice("all").noise) == (0.01, None)
    assert (first.damage, second.damage) == (0.5, None)


def test_a_slice_that_is_allowed_more_counts_in_proportion() -> None:
    """A loss of 6 points in a slice that may lose 10 is no reason to fail the general limit of 5."""
    original = [1] * 2000
    candidate = [0] * 60 + [1] * 940 + [0] * 10 + [1] * 990
    slices = {"first": np.arange(2000) < 1000, "second": np.arange(2000) >= 1000}
    strict = run(dataset(2000), original, candidate, slices, limit=0.05)
    allowed = run(dataset(2000), original, candidate, slices, limit=0.05, beside={"limits": {"first": 0.1}})
    assert strict.worst_drop.value == pytest.approx(0.06, abs=0.006)
    assert allowed.worst_drop.value == pytest.approx(0.035, abs=0.006)  # that of all samples, more than half of 6
    assert allowed.worst_drop.high <= 0.05 < strict.worst_drop.high
    assert allowed.slice("first").drop == strict.slice("first").drop
    assert (strict.slice("first").verdict, allowed.slice("first").verdict) == ("fail", "pass")


def test_an_original_that_gets_nothing_right_is_refused() -> None:
    with pytest.raises(DataError, match=r"scores 0 in 'accuracy' on all 30 samples.*like 3 \(int\).*like '3' \(str\)"):
        run(dataset(30, "3"), [3] * 30, [3] * 30)
    assert run(dataset(5, "3"), [3] * 5, [3] * 5).n == 5, "of a few samples it may happen that none is right"


def test_zero_is_the_best_value_of_some_metrics() -> None:
    """A perfect original under minus a distance scores 0 everywhere, and is not refused."""
    found = run(dataset(30, 1.5), [1.5] * 30, [1.25] * 30, metric=negative_mae)
    assert found.slice("all").original.value == 0.0 and found.slice("all").drop.value == pytest.approx(0.25)


def test_lossless_needs_data() -> None:
    few = run(dataset(400), [1] * 400, [1] * 400, limit=0.05).slices[0]
    many = run(dataset(2000), [1] * 2000, [1] * 2000, limit=0.05).slices[0]
    assert (few.verdict, many.verdict) == ("pass", "pass")
    assert few.detectable is not None
    assert few.detectable > 0.01
    assert not few.lossless
    assert many.lossless


def test_confidence_and_divergence_are_told_per_slice() -> None:
    n, tags = 2000, {"half": np.arange(2000) < 500}
    sure, surer = [0.8] * n, [0.95] * n
    labels = [1] * n
    original = [0] * 400 + [1] * 1600
    found = run(dataset(n), original, original, tags, confidence=(sure, surer), divergence=[0.0] * 1000 + [0.2] * 1000)
    whole, half = found.slice("all"), found.slice("half")
    assert labels == [1] * n
    assert whole.ece_original == pytest.approx(0.32, abs=0.01)  # bins of equal confidence are of neighbours
    assert whole.ece_candidate is not None
    assert whole.ece_change is not None
    assert whole.ece_change.value == pytest.approx(whole.ece_candidate - (whole.ece_original or 0))
    assert (whole.overconfident_original, whole.overconfident_candidate) == (0.0, 0.2)
    assert half.ece_original is None
    assert half.overconfident_candidate == 0.8
    assert whole.kl is not None
    assert whole.kl.value == pytest.approx(0.1)
    assert whole.kl.low > 0.09
    assert whole.kl_p99 == pytest.approx(0.2)
    assert found.outcomes[0].candidate_confidence == 0.95
    assert found.outcomes[-1].divergence == 0.2


def test_a_metric_without_a_value_names_its_slice() -> None:
    rng = np.random.default_rng(0)
    labels = [float(v) for v in [*rng.normal(size=50), *[1.0] * 50]]
    samples = [Sample(id=str(i), inputs={}, label=label) for i, label in enumerate(labels)]
    tags = {"flat": np.arange(100) >= 50}
    answers = [label + rng.normal(scale=0.1) for label in labels]
    with pytest.raises(TrialFailure, match="on slice 'flat': metric 'pearson' gave nan"):
        run(Dataset("search", samples), answers, answers, tags, metric=pearson)


def test_resamples_without_a_value_are_drawn_again() -> None:
    labels = [1, *[0] * 39]
    samples = [Sample(id=str(i), inputs={}, label=label) for i, label in enumerate(labels)]
    scores = [0.9, *np.linspace(0, 0.8, 39).tolist()]
    found = run(Dataset("search", samples), scores, [0.5, *scores[1:]], metric=average_precision)
    assert found.slice("all").drop.value > 0.5


def test_few_false_alarms() -> None:
    """30 slices of 500 with 3 % symmetric flips: at most 5 % of runs show any `fail`, whatever the limit."""
    rng = np.random.default_rng(5)
    masks = {"all": np.ones(15_000, bool), **blocks(30, 500)}
    for limit in (0.01, 0.001):
        alarms, worst = [], []
        for _ in range(25):
            scored = Scored.of_samples(*flipped(rng, 15_000, 0.03))
            found = Judgement.of({"accuracy": scored}, masks, JudgeTable(limit=limit))
            alarms.append(any(result.verdict == "fail" for result in found.results))
            worst.append(found.worst_drop.value)
        assert np.mean(alarms) <= 0.16  # 25 runs tell 5 % from 20 % and no better; benchmarks/verdicts.py makes more
        assert np.mean(worst) <= 0.006  # raw 1.6 points


def test_enough_power() -> None:
    """A true loss of 3 points in 1 of 20 slices of 1,000 is found in at least 80 % of runs."""
    rng = np.random.default_rng(6)
    masks = {"all": np.ones(20_000, bool), **blocks(20, 1000)}
    found, worst = [], []
    for _ in range(30):
        original, candidate = flipped(rng, 20_000, 0.03)
        lost = rng.random(1000) < 0.03
        original[:1000][lost], candidate[:1000][lost] = 1.0, 0.0
        judged = Judgement.of({"accuracy": Scored.of_samples(original, candidate)}, masks, JudgeTable())
        found.append({result.name: result.verdict for result in judged.results}["s=0"] == "fail")
        worst.append(judged.worst_drop.value)
    assert np.mean(found) >= 0.7  # 30 runs: +-7 points
    assert abs(np.mean(worst) - 0.03) <= 0.008


def flipped(rng: np.random.Generator, n: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two models of accuracy 0.9 that disagree on some samples, as often this way as that way."""
    original = (rng.random(n) < 0.9).astype(float)
    candidate = original.copy()
    where = np.flatnonzero(rng.random(n) < rate)
    original[where] = rng.integers(0, 2, len(where))
    candidate[where] = 1 - original[where]
    return original, candidate


def test_masks_and_predictions_that_do_not_fit_are_one_line() -> None:
    data, right = dataset(40), [1] * 40
    for mask, said in (
        (np.zeros(40, bool), r"^mask of slice 's': it selects none of the 40 samples of the search data; leave this"),
        (np.ones(39, bool), r"^mask of slice 's': bool of shape \(39,\), but the search data have 40 samples; give a"),
        (np.ones(40, int), r"^mask of slice 's': int64 of shape \(40,\), but .* give a numpy array of bool"),
        ([True] * 40, r"^mask of slice 's': list, but .* give a numpy array of bool"),
    ):
        with pytest.raises(DataError, match=said):
            run(data, right, right, {"s": mask})  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"^predictions of the candidate: 39 values for 40 samples .* one for each id"):
        run(data, right, right[1:])
    with pytest.raises(DataError, match=r"^predictions of the original: 41 values for 40 samples"):
        run(data, [*right, 1], right)
    with pytest.raises(DataError, match=r"^confidence of the original: 2 values for 40 samples"):
        run(data, right, right, confidence=([0.5] * 2, [0.5] * 40))
    ids = tuple(sample.id for sample in data.samples)
    same = Predictions(ids, tuple(right), 0.0)
    with pytest.raises(DataError, match=r"^masks: there is none of the slice 'all'; add one"):
        judge(artifact="a", target="local", dataset=data, masks={}, metrics=resolve_metrics("accuracy"), original=same,
              candidate=same, table=JudgeTable())  # fmt: skip


def mixed(n: int) -> tuple[Dataset, list[int]]:
    labels = [i % 3 for i in range(n)]
    return Dataset("search", [Sample(id=str(i), inputs={}, label=y) for i, y in enumerate(labels)]), labels


def always(predictions: Sequence[Any], labels: Sequence[Any]) -> bool:
    return True


def labels_alone(predictions: Sequence[int], labels: Sequence[int]) -> float:
    return float(np.mean(labels))


def answers_alone(predictions: Sequence[int], labels: Sequence[int]) -> float:
    return float(np.mean([p > 0 for p in predictions]))


def test_a_metric_that_compares_nothing_is_told() -> None:
    data, labels = mixed(300)
    wrong = [0] * 300
    (told,) = run(data, labels, wrong, metric=always).warnings
    assert told.startswith("the metric 'always' gives 1 for every sample of both models, and also with the labels of ")
    assert told.endswith("; check that it compares predictions with labels")
    (told,) = run(data, labels, wrong, metric=labels_alone).warnings
    assert "'labels_alone'" in told and "the same score with the prediction for another sample" in told
    (told,) = run(data, labels, wrong, metric={"accuracy": "accuracy", "odd": answers_alone}).warnings
    assert "'odd'" in told and "the same score with a wrong label" in told
    (told,) = run(dataset(300), [1] * 300, [1] * 300).warnings  # all labels alike: nothing can be exchanged
    assert told.startswith("the metric 'accuracy' gives 1 for every sample of both models; check")


def test_a_metric_that_compares_is_not_doubted() -> None:
    data, labels = mixed(300)
    assert run(data, labels, labels).warnings == (), "both models perfect on easy data, but the labels count"
    assert run(data, labels, [0] * 300).warnings == ()
    assert run(data, [0] * 300, [0] * 300).warnings == (), "a model that says one class only"
    assert run(data, labels, labels, metric=f1_macro).warnings == ()
    rare = Dataset("search", [Sample(id=str(i), inputs={}, label=int(i == 7)) for i in range(300)])
    perfect = [int(i == 7) for i in range(300)]
    assert run(rare, perfect, perfect).warnings == ()
    assert run(dataset(300), [1] * 300, [0] + [1] * 299).warnings == ()
