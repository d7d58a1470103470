"""Confidence: which output tells, in which form, and where nothing does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotune.errors import TrialFailure
from autotune.judge.confidence import ConfidenceReader

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 5)).astype(np.float32) * 3
CLASSES = [int(row.argmax()) for row in LOGITS]


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def read(outputs: dict[str, np.ndarray], predictions: list[Any], batch: int = 7) -> tuple[float, ...] | None:
    reader = ConfidenceReader(len(predictions))
    for start in range(0, len(predictions), batch):
        indices = list(range(start, min(start + batch, len(predictions))))
        reader.read({name: array[indices] for name, array in outputs.items()}, indices)
    return reader.result(predictions)


def test_logits_and_probabilities_of_the_same_model_give_the_same() -> None:
    names = ["abcde"[index] for index in CLASSES]  # decode may call the classes what it wants
    of_logits, of_probabilities = read({"y": LOGITS}, names), read({"y": softmax(LOGITS)}, names)
    assert of_logits is not None and of_probabilities is not None
    np.testing.assert_allclose(of_logits, softmax(LOGITS).max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(of_logits, of_probabilities, rtol=1e-5)


def test_a_quantised_softmax_is_still_one() -> None:
    rounded = np.round(softmax(LOGITS) * 32).astype(np.float32) / 32
    found = read({"y": rounded}, [int(row.argmax()) for row in rounded])
    assert found is not None
    np.testing.assert_allclose(found, softmax(LOGITS).max(axis=1), atol=0.05)


def test_the_output_that_decides_the_prediction_is_taken() -> None:
    features = RNG.normal(size=(40, 64)).astype(np.float32)
    attention = softmax(RNG.normal(size=(40, 6)))
    found = read({"features": features, "attention": attention, "scores": LOGITS}, CLASSES)
    assert found == read({"scores": LOGITS}, CLASSES)


def test_sequences_give_the_mean_over_their_steps() -> None:
    steps = softmax(RNG.normal(size=(6, 9, 4)) * 4)
    texts = ["".join("-abc"[index] for index in row).replace("-", "") for row in steps.argmax(axis=2)]
    found = read({"y": steps.astype(np.float32)}, texts)
    assert found is not None
    np.testing.assert_allclose(found, steps.max(axis=2).mean(axis=1), rtol=1e-5)


def test_one_probability_per_sample() -> None:
    one = np.array([[0.9], [0.2], [0.4], [0.7]], np.float32)
    np.testing.assert_allclose(read({"y": one}, [True, False, False, True]) or (), [0.9, 0.8, 0.6, 0.7], rtol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "predictions"),
    [
        ({"y": LOGITS}, [float(row.sum()) for row in LOGITS]),  # regression
        ({"y": LOGITS}, [[float(row[0]), 1.0] for row in LOGITS]),
        ({"y": LOGITS}, [index % 2 for index in range(40)]),  # the largest entry does not decide
        ({"y": LOGITS.astype(np.int64)}, CLASSES),
        ({"y": LOGITS[:, :1]}, [bool(row[0] > 0) for row in LOGITS]),  # one number that is no probability
        ({"y": LOGITS.reshape(20, 2, 5, 1).repeat(2, axis=0)}, CLASSES),
        ({}, CLASSES),
    ],
)
def test_none_where_the_outputs_do_not_tell(outputs: dict[str, np.ndarray], predictions: list[Any]) -> None:
    assert read(outputs, predictions) is None


def test_the_workloads_own_function_wins_and_is_checked() -> None:
    reader = ConfidenceReader(2, lambda outputs: [0.25] * len(outputs["y"]))
    reader.read({"y": LOGITS[:2]}, [0, 1])
    assert reader.result([0.5, 1.5]) == (0.25, 0.25)
    for wrong, message in (
        ([0.5], "1 numbers for a batch of 2"),
        ([0.5, 1.5], "must be in 0 to 1"),
        ([0.1, float("nan")], "nan"),
    ):
        with pytest.raises(TrialFailure, match=message):
            ConfidenceReader(2, lambda outputs, wrong=wrong: wrong).read({"y": LOGITS[:2]}, [0, 1])
