"""Perturbed text: markers, padding and masks stay, the share is kept, casing goes through the user's tokeniser."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.errors import DataError, UsageError
from autotune.perturbations import BUILT_IN, perturbed
from autotune.perturbations.protocol import Surroundings
from autotune.perturbations.text import token_inputs, vocabulary
from autotune.workload import Arrays, Dataset, Sample, Workload

START, STOP, PAD = 101, 102, 0


def tokens(number: int, length: int = 20, padded: int = 30, *, mask: bool = True) -> Sample:
    rng = np.random.default_rng(number)
    ids = np.full((1, padded), PAD, np.int64)
    ids[0, 0], ids[0, length - 1] = START, STOP
    ids[0, 1 : length - 1] = rng.integers(200, 230, length - 2)
    inputs = {"input_ids": ids}
    if mask:
        inputs["attention_mask"] = (np.arange(padded) < length).astype(np.int64)[None]
        inputs["token_type_ids"] = np.zeros((1, padded), np.int64)
    return Sample(str(number), inputs, 0, display=f"Text Number {number}")


def workload(samples: list[Sample], **more: object) -> Workload:
    dataset = Dataset("search", samples)
    return Workload("m.onnx", dataset, dataset, [samples[0].inputs], lambda out: [], **more)  # type: ignore[arg-type]


def disturbed(samples: list[Sample], declaration: str, **more: object) -> list[Sample]:
    dataset = Dataset("search", samples)
    return list(perturbed(dataset, [declaration], workload(samples, **more)).samples[len(samples) :])


@pytest.mark.parametrize("mask", [True, False])
def test_a_share_of_the_inner_tokens_becomes_others_of_the_same_data(mask: bool) -> None:
    samples = [tokens(i, mask=mask) for i in range(30)]
    for before, after in zip(samples, disturbed(samples, "token_noise(0.25)"), strict=True):
        old, new = before.inputs["input_ids"][0], after.inputs["input_ids"][0]
        places = np.flatnonzero(old != new)
        assert len(places) == round(0.25 * 18)
        assert places.min() >= 1 and places.max() <= 18
        assert set(new[places]) <= set(range(200, 230))
        for name in set(before.inputs) - {"input_ids"}:
            assert np.array_equal(before.inputs[name], after.inputs[name])
        assert after.perturbation == "token_noise(0.25)" and after.display == before.display


def test_markers_inside_stay_too() -> None:
    samples = [tokens(i) for i in range(20)]
    for each in samples:
        each.inputs["input_ids"][0, 9] = STOP  # a pair of texts
    known, special = vocabulary(samples)
    assert special["input_ids"] == {START, STOP} and not set(known["input_ids"]) & {START, STOP, PAD}
    for each in disturbed(samples, "token_noise(1)"):
        assert each.inputs["input_ids"][0, [0, 9, 19]].tolist() == [START, STOP, STOP]


def test_very_short_texts_stay_as_they_are() -> None:
    samples = [tokens(0, length=2), *[tokens(i) for i in range(1, 9)]]
    first, *_ = disturbed(samples, "token_noise(0.5)")
    assert np.array_equal(first.inputs["input_ids"], samples[0].inputs["input_ids"])


def test_what_holds_tokens() -> None:
    assert token_inputs(tokens(0).inputs) == ["input_ids"]
    assert token_inputs({"x": np.zeros((1, 4), np.float32), "y": np.zeros((1, 2, 3), np.int64)}) == []
    assert token_inputs({"n": np.array(3), "ids": np.array([1, 2, 3], np.int32)}) == ["ids"]
    pixels = Sample("p", {"x": np.zeros((1, 3, 8, 8), np.float32)}, 0)
    with pytest.raises(DataError, match="no input of sample 'p' looks like token ids"):
        disturbed([pixels], "token_noise(0.1)")


def encode(text: str) -> Arrays:
    return {"ids": np.frombuffer(text.encode(), np.uint8).astype(np.int64)[None]}


@pytest.mark.parametrize(("word", "expected"), [("upper", "TEXT NUMBER 3"), ("lower", "text number 3")])
def test_casing_goes_through_the_tokeniser(word: str, expected: str) -> None:
    text = "Text Number 3"
    (made,) = disturbed([Sample("a", encode(text), 0, display=text)], f"casing({word})", encode=encode)
    assert made.display == expected
    assert bytes(made.inputs["ids"][0].astype(np.uint8)).decode() == expected


def test_random_casing_is_the_same_every_time_and_what_is_shown() -> None:
    text = "A rather long text of many letters"
    first, second = (
        disturbed([Sample("a", encode(text), 0, display=text)], "casing(random)", encode=encode)[0] for _ in range(2)
    )
    assert first.display == second.display != text
    assert str(first.display).lower() == text.lower()
    assert bytes(first.inputs["ids"][0].astype(np.uint8)).decode() == first.display


def test_what_casing_needs() -> None:
    shown, hidden = Sample("a", encode("x"), 0, display="x"), Sample("b", encode("x"), 0, display=b"png")
    with pytest.raises(UsageError, match=r"casing needs Workload.encode, a function from a text to the model's inputs"):
        disturbed([shown], "casing(upper)")
    with pytest.raises(DataError, match=r"casing: sample 'b' has no text; give it as Sample.display"):
        disturbed([hidden], "casing(upper)", encode=encode)
    with pytest.raises(UsageError, match=r"casing\(loud\): the strength must be one of upper, lower, random"):
        disturbed([shown], "casing(loud)", encode=encode)
    with pytest.raises(DataError, match=r"casing\(upper\) of sample 'a' gives the inputs \['y'\]; the sample has"):
        disturbed([shown], "casing(upper)", encode=lambda text: {"y": np.zeros(1)})
    with pytest.raises(DataError, match=r"gives float64\[1, 1\] for input 'ids'; the sample has int64\[1, 1\]"):
        disturbed([shown], "casing(upper)", encode=lambda text: {"ids": np.zeros((1, 1))})
    with pytest.raises(DataError, match=r"casing\(upper\) of sample 'a' raised KeyError: 'X'"):
        disturbed([shown], "casing(upper)", encode=lambda text: {}[text])


def test_the_function_alone_needs_nothing_but_its_surroundings() -> None:
    sample = tokens(1)
    around = Surroundings(None, *vocabulary([sample]))
    one, two = (
        BUILT_IN["token_noise"].inputs(sample, 0.5, np.random.default_rng(3), around)["input_ids"] for _ in range(2)
    )
    assert np.array_equal(one, two)
