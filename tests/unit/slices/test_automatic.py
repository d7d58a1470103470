"""Bands of difficulty and size: cut on one data set, applied to another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.slices.automatic import Bands, difficulties, fit_bands, input_size, wanted
from autotune.workload import Dataset, Sample


def test_thirds_by_confidence() -> None:
    values = [i / 300 for i in range(300)]
    bands = fit_bands(values, "difficulty")
    assert bands is not None
    words = bands.apply(values)
    assert [words.count(word) for word in ("hard", "medium", "easy")] == [100, 100, 100]
    assert words[0] == "hard" and words[-1] == "easy"
    assert bands.apply([-1.0, 0.5, 2.0, None, float("nan")]) == ["hard", "medium", "easy", None, None]


def test_bands_survive_json() -> None:
    bands = fit_bands([1, 2, 3, 4, 5, 6], "size")
    assert bands is not None
    assert Bands.model_validate_json(bands.model_dump_json()) == bands


@pytest.mark.parametrize("values", [[], [None, None], [1.0] * 9, [1.0, float("nan"), 1.0]])
def test_no_bands_where_nothing_varies(values: list[float | None]) -> None:
    assert fit_bands(values, "size") is None


@pytest.mark.parametrize("right", [1, 30, 60, 99])
def test_scores_of_right_and_wrong_give_two_bands(right: int) -> None:
    scores = [1.0] * right + [0.0] * (100 - right)
    bands = fit_bands(scores, "difficulty")
    assert bands is not None
    assert bands.apply([0.0, 1.0]) == ["hard", "easy"]


@given(st.lists(st.floats(-1e9, 1e9), min_size=2))
def test_bands_rise_with_the_values(values: list[float]) -> None:
    bands = fit_bands(values, "size")
    if bands is None:
        assert min(values) == max(values)
        return
    places = [bands.words.index(str(word)) for word in bands.apply(sorted(values))]
    assert places == sorted(places)
    assert set(places) == set(range(len(bands.words)))


def test_difficulty_is_the_confidence_or_else_the_score() -> None:
    assert difficulties([0.5, 0.9], [0.0, 1.0]) == [0.5, 0.9]
    assert difficulties(None, [0.0, 1.0]) == [0.0, 1.0]
    assert difficulties([0.5, None], [0.0, 1.0]) == [0.0, 1.0]
    assert difficulties([float("nan"), 0.5], [0.0, 1.0]) == [0.0, 1.0]
    assert difficulties([0.5, None]) == [0.5, None]


def sample(**inputs: np.ndarray) -> Sample:
    return Sample("a", inputs, 0, {"size": 3})


def test_size_of_an_input() -> None:
    assert input_size(sample(x=np.zeros((1, 3, 4, 5)))) == 60
    assert input_size(sample(x=np.zeros((1, 3)), y=np.zeros((1, 4)))) == 7
    mask = np.array([[1, 1, 1, 0, 0]])
    assert input_size(sample(input_ids=np.ones((1, 5), int), attention_mask=mask)) == 3


def test_a_column_of_the_user_comes_first() -> None:
    assert wanted(Dataset("search", [sample(x=np.zeros(1))]), ("size", "difficulty")) == ("difficulty",)
