"""Average precision of boxes: by hand, and against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotune.config import JudgeTable
from autotune.errors import TrialFailure
from autotune.judge.detection import detection_map, detection_map50
from autotune.judge.metrics import resolve_metric, resolve_metrics
from autotune.judge.predictions import Predictions
from autotune.judge.verdicts import judge
from autotune.workload import Dataset, Sample

Image = list[dict[str, Any]]


def box(x: float, y: float, side: float, label: Any = "cat", score: float | None = None) -> dict[str, Any]:
    shown = {"box": [x, y, x + side, y + side], "label": label}
    return shown if score is None else {**shown, "score": score}


def images(seed: int, count: int = 40, classes: int = 4, *, ties: bool = False) -> tuple[list[Image], list[Image]]:
    """Predictions and labels; some images are empty, some boxes missed, moved, of the wrong class or made up."""
    rng = np.random.default_rng(seed)
    labels, predictions = [], []

    def score() -> float:
        return float(np.round(rng.random(), 1 if ties else 6))

    for _ in range(count):
        true: Image = []
        for _ in range(rng.integers(0, 6)):
            corner, side = rng.uniform(0, 80, 2), rng.uniform(4, 40, 2)
            true.append({"box": [*corner.tolist(), *(corner + side).tolist()], "label": int(rng.integers(classes))})
        found: Image = []
        for each in true:
            if rng.random() < 0.8:
                moved = np.array(each["box"]) + rng.normal(0, 2.0, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2])
                label = each["label"] if rng.random() < 0.9 else int(rng.integers(classes))
                found.append({"score": score(), "box": moved.tolist(), "label": label})
        for _ in range(rng.integers(0, 3)):
            corner, side = rng.uniform(0, 80, 2), rng.uniform(4, 40, 2)
            corners = [*corner.tolist(), *(corner + side).tolist()]
            found.append({"box": corners, "label": int(rng.integers(classes + 1)), "score": score()})
        labels.append(true)
        predictions.append(found)
    return predictions, labels


# What COCOeval of pycocotools 2.0.11 gives for these images: [0.50:0.95], [0.50]; areaRng all, maxDets 100.
REFERENCE = {
    (0, False): (0.1826012420, 0.4141773631),
    (0, True): (0.1833082317, 0.4112560028),
    (1, False): (0.1938641880, 0.4297796230),
    (1, True): (0.1931014055, 0.4251327960),
    (2, False): (0.2081950614, 0.4690053075),
    (2, True): (0.2114880685, 0.4781270607),
    (3, False): (0.1910986060, 0.4440788791),
    (3, True): (0.1983407380, 0.4598063302),
}


@pytest.mark.parametrize(("seed", "ties"), REFERENCE)
def test_the_same_as_pycocotools(seed: int, ties: bool) -> None:
    predictions, labels = images(seed, ties=ties)
    found = detection_map(predictions, labels), detection_map50(predictions, labels)
    assert found == pytest.approx(REFERENCE[seed, ties], abs=1e-9)


def test_by_hand() -> None:
    labels = [[box(0, 0, 10), box(50, 50, 10)], [box(0, 0, 10, "dog")]]
    assert detection_map(labels_as_found(labels), labels) == 1.0
    assert detection_map([[], []], labels) == 0.0
    # One of two cats, found first: precision 1 up to a recall of 0.5, which 51 of the 101 recalls reach. No dog.
    half = [[box(0, 0, 10, score=0.9), box(200, 200, 10, score=0.1)], []]
    assert detection_map50(half, labels) == pytest.approx(51 / 101 / 2)
    # An overlap of 8.5 / 11.5 = 0.739 counts for the thresholds 0.50 to 0.70.
    moved = [[box(1.5, 0, 10, score=0.9)]]
    assert detection_map(moved, [[box(0, 0, 10)]]) == pytest.approx(0.5)
    # A second box on the same object is wrong, and comes first.
    twice = [[box(1, 0, 10, score=0.9), box(0, 0, 10, score=0.8)]]
    assert detection_map50(twice, [[box(0, 0, 10)]]) == 1.0
    assert detection_map(twice, [[box(0, 0, 10)]]) == pytest.approx((7 * 1.0 + 3 * 0.5) / 10)


def labels_as_found(labels: list[Image]) -> list[Image]:
    return [[{**each, "score": 0.5} for each in image] for image in labels]


@pytest.mark.parametrize(
    ("found", "labels", "message"),
    [
        ([[]], [[]], "at least one labelled box"),
        (["cat"], [[box(0, 0, 1)]], "prediction must be a list of boxes, not str"),
        ([[box(0, 0, 1)]], [[box(0, 0, 1)]], "box of a prediction has no 'score'"),
        ([[]], [[{"box": [0, 0, 1, 1]}]], "box of a label has no 'label'"),
        ([[]], [[{"box": [5, 0, 1, 1], "label": 0}]], "x0 <= x1 and y0 <= y1"),
        ([[{"box": [0, 0, 1, 1], "label": 0, "score": float("nan")}]], [[box(0, 0, 1)]], "must be a finite number"),
    ],
)
def test_what_is_no_list_of_boxes(found: list[Any], labels: list[Any], message: str) -> None:
    with pytest.raises(TrialFailure, match=message):
        resolve_metric("detection_map")(found, labels)


def test_judged_as_a_metric_of_the_whole() -> None:
    """A candidate that moves every box by a little; images without objects are there, too."""
    found, labels = images(5, count=30)
    shifted = [
        [{**each, "box": np.add(each["box"], [3.0, 0.0, 3.0, 0.0]).tolist()} for each in image] for image in found
    ]
    samples = [Sample(id=str(i), inputs={}, label=label) for i, label in enumerate(labels)]
    ids = tuple(sample.id for sample in samples)
    worse, same = (
        judge(
            artifact="a",
            target="local",
            dataset=Dataset("heldout", samples),
            masks={"all": np.ones(30, bool)},
            metrics=resolve_metrics("detection_map"),
            original=Predictions(ids, tuple(found), 0.0),
            candidate=Predictions(ids, tuple(answers), 0.0),
            table=JudgeTable(floor=20, limit=0.05),
        ).slices[0]
        for answers in (shifted, found)
    )
    assert worse.drop.value == pytest.approx(detection_map(found, labels) - detection_map(shifted, labels))
    assert worse.drop.low > 0.02 and worse.verdict == "fail"
    assert worse.p_value is not None and worse.p_value < 0.01
    assert worse.flips_worse > 10 * max(1, worse.flips_better)
    assert (same.drop.value, same.flips_worse, same.flips_better, same.p_value) == (0.0, 0, 0, 1.0)
