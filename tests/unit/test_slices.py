"""Slices: one line of text each, masks over the samples, and refusals that name the slice."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.errors import DataError, UsageError
from autotune.slices import ByThreshold, ByValue, assign, parse
from autotune.workload import Dataset, Sample


def data(*rows: dict[str, str | int | float | bool], labels: list[object] | None = None) -> Dataset:
    samples = [
        Sample(id=str(i), inputs={"x": np.zeros((1, 1), np.float32)}, label=labels[i] if labels else "a", metadata=row)
        for i, row in enumerate(rows)
    ]
    return Dataset("search", samples)


def test_a_column_gives_one_slice_per_value_and_all_comes_first() -> None:
    masks = assign(data({"font": "serif"}, {"font": "mono"}, {"font": "serif"}), ["font"])
    assert list(masks) == ["all", "font=mono", "font=serif"]
    assert masks["font=serif"].tolist() == [True, False, True]
    assert all(mask.dtype == bool for mask in masks.values())


def test_values_are_sorted_as_numbers_where_they_are_numbers() -> None:
    rows = [{"size": size} for size in (10, 9, 100, 9, 10, 100)]
    assert list(assign(data(*rows), ["size"])) == ["all", "size=9", "size=10", "size=100"]


def test_the_label_is_a_column_unless_the_metadata_have_one() -> None:
    assert list(assign(data({}, {}, labels=["cat", "dog"]), ["label"])) == ["all", "label=cat", "label=dog"]
    assert list(assign(data({"label": "x"}, {"label": "x"}), ["label"])) == ["all", "label=x"]


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [("n<3", [1, 1, 0, 0]), ("n<=3", [1, 1, 1, 0]), ("n>3", [0, 0, 0, 1]), ("n >= 3", [0, 0, 1, 1])],
)
def test_thresholds(declaration: str, expected: list[int]) -> None:
    masks = assign(data(*({"n": n} for n in (1, 2, 3, 4))), [declaration])
    assert masks[declaration.replace(" ", "")].tolist() == [bool(e) for e in expected]


def test_one_value_of_a_column() -> None:
    assert list(assign(data({"font": "a"}, {"font": "b"}), ["font=b"])) == ["all", "font=b"]


def test_booleans_read_as_words() -> None:
    assert list(assign(data({"bold": True}, {"bold": False}), ["bold"])) == ["all", "bold=false", "bold=true"]


def test_a_sample_without_the_column_is_in_none_of_its_slices() -> None:
    masks = assign(data({"font": "a"}, {}, {"n": 3}), ["font", "n<9"])
    assert masks["font=a"].tolist() == [True, False, False]
    assert masks["n<9"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("declarations", "message"),
    [
        (["fnt"], "no sample of the search data has the column 'fnt'; did you mean 'font'"),
        (["n<0"], "slice n<0 covers none of the 2 samples of the search data"),
        (["font=c"], "slice font=c covers none of the 2 samples"),
        (["font<3"], "compares numbers, but sample 0 has font='a'"),
        (["mail"], "slice 'mail=a@b' of search cannot be named in metric keys"),
    ],
)
def test_what_cannot_be_a_slice_is_refused_by_name(declarations: list[str], message: str) -> None:
    rows = data({"font": "a", "n": 1, "mail": "a@b"}, {"font": "b", "n": 2, "mail": "a@b"})
    with pytest.raises(DataError) as caught:
        assign(rows, declarations)
    assert message in str(caught.value)


def test_a_column_of_measurements_is_no_set_of_slices() -> None:
    with pytest.raises(DataError, match=r"would give 10 slices for 10 samples; declare a threshold instead, e.g. ink<"):
        assign(data(*({"ink": i / 7} for i in range(10))), ["ink"])


@pytest.mark.parametrize("declaration", ["", "n<", "<3", "n=", "n<three"])
def test_unreadable_declarations(declaration: str) -> None:
    with pytest.raises(UsageError):
        parse(declaration)


def test_what_a_declaration_parses_to() -> None:
    assert parse(" font ") == ByValue("font")
    assert parse("font=a b") == ByValue("font", "a b")
    assert parse("length<=8") == ByThreshold("length", "<=", 8.0)


def test_no_samples_and_double_ids() -> None:
    with pytest.raises(DataError, match="hold no sample"):
        assign(data(), [])
    twice = data({}, {})
    with pytest.raises(DataError, match="sample id '0' occurs twice"):
        assign(Dataset("search", [twice.samples[0], twice.samples[0]]), [])


def test_a_slice_that_the_other_data_set_has_is_missed() -> None:
    with pytest.raises(DataError, match="font=b covers none of the 1 samples of the search data"):
        assign(data({"font": "a"}), ["font"], expected=["all", "font=a", "font=b"])
