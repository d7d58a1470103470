"""Slices by functions of a sample: named, combined, perturbed, and refused in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotune.errors import AutotuneError, DataError, UsageError
from autotune.perturbations import perturbed
from autotune.slices import Declaration, assign, declared, fixed, parse, possible_names, where
from autotune.workload import Dataset, Sample, Workload

N = 40
DATA = Dataset(
    "search",
    [
        Sample(str(i), {"x": np.full((1, 8, 8), i, np.float32)}, i % 4, {"font": ("mono", "serif")[i % 2], "length": i})
        for i in range(N)
    ],
)


def bright(sample: Sample) -> bool:
    return bool(sample.inputs["x"].mean() >= 20)


def members(declaration: Any) -> set[int]:
    found = assign(DATA, [declaration])
    return set(np.flatnonzero(found[list(found)[1]]).tolist())


BRIGHT = set(range(20, N))


def test_a_function_declares_a_slice_under_its_own_name() -> None:
    found = assign(DATA, [bright, lambda sample: sample.label == 3])
    assert list(found) == ["all", "bright", "function 2"]
    assert set(np.flatnonzero(found["bright"]).tolist()) == BRIGHT
    assert set(np.flatnonzero(found["function 2"]).tolist()) == {i for i in range(N) if i % 4 == 3}
    assert found.kinds["bright"] == "declared"


def test_a_dictionary_names_them() -> None:
    given = {"light ones": bright, "threes": lambda sample: sample.label == 3, "serif": "font=serif", "face": "font"}
    found = assign(DATA, given)
    assert list(found) == ["all", "light ones", "threes", "serif", "face: font=mono", "face: font=serif"]
    assert set(np.flatnonzero(found["light ones"]).tolist()) == BRIGHT


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        (where(bright) & "font=mono", {i for i in BRIGHT if i % 2 == 0}),
        (Declaration("font=mono") & bright, {i for i in BRIGHT if i % 2 == 0}),
        (where(bright) | "length<3", BRIGHT | {0, 1, 2}),
        (~where(bright, "light ones"), set(range(20))),
        (~(where(bright) | where(lambda s: s.label == 3, "a!b")), {i for i in range(20) if i % 4 != 3}),
        (where(functools.partial(bright), "part"), BRIGHT),
    ],
)
def test_functions_take_part_in_the_algebra(declaration: Declaration, expected: set[int]) -> None:
    assert members(declaration) == expected
    assert parse(parse(declaration.text).text).text == parse(declaration.text).text
    (kept,) = fixed(DATA, [declaration])
    assert members(kept) == expected


def test_products_and_kinds() -> None:
    found = assign(DATA, [where(bright) * "font"], floor=5)
    assert list(found) == ["all", "bright() & font=mono", "bright() & font=serif"]
    assert set(found.kinds.values()) == {"declared", "intersection"}
    assert assign(DATA, found.declarations.values()).keys() == found.keys(), "each can be declared by itself"


def test_texts_call_the_functions_that_the_workload_declares() -> None:
    both = declared([bright, "bright ( ) & length<30"], {"dim mono": "!bright() & font=mono"})
    found = assign(DATA, both)
    assert set(np.flatnonzero(found["bright() & length<30"]).tolist()) == set(range(20, 30))
    assert set(np.flatnonzero(found["dim mono"]).tolist()) == {i for i in range(20) if i % 2 == 0}
    assert possible_names(DATA, both) == ["bright", "bright() & length<30", "dim mono"]


def test_perturbed_copies_are_where_their_sources_are() -> None:
    workload = Workload("m.onnx", DATA, DATA, [], lambda outputs: [])
    given = declared([bright, where(bright) & "brightness(-0.9)"])
    data = perturbed(DATA, given, workload)
    assert len(data) == N + len(BRIGHT), "only the bright ones are copied"
    found = assign(data, given)
    assert set(np.flatnonzero(found["bright"]).tolist()) == BRIGHT
    assert np.flatnonzero(found["bright() & brightness(-0.9)"]).tolist() == list(range(N, N + len(BRIGHT)))


def fails(sample: Sample) -> bool:
    raise KeyError("x\ny")


def number(sample: Sample) -> Any:
    return sample.label


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ([fails], DataError, "slice fails of the search data: its function raised KeyError: 'x\\ny' for sample '0'"),
        (
            [number],
            DataError,
            "slice number of the search data: its function gave 0 (int) for sample '0'; it must give",
        ),
        ([lambda sample: False], DataError, "slice function 1 covers none of the 40 samples of the search data"),
        ([lambda sample: True], DataError, "slice function 1 covers all 40 samples of the search data"),
        (["brigth()", bright], UsageError, "slice brigth(): there is no function 'brigth'; did you mean 'bright'?"),
        (["blur()"], UsageError, "there is no function 'blur'; the workload declares none (a perturbation needs a"),
        ([where(bright), where(fails, "bright")], UsageError, "two functions of slices are called 'bright'"),
        ({"all": bright}, UsageError, "slice name 'all' cannot be used in metric keys"),
        ({3: bright}, UsageError, "slices: the name 3 is no text"),
        (bright, UsageError, "give a list of declarations, or a dictionary of name -> declaration"),
    ],
)
def test_what_is_no_slice_is_said_in_one_line(given: Any, kind: type[AutotuneError], message: str) -> None:
    with pytest.raises(kind) as caught:
        assign(DATA, given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: where(lambda sample: True), "has no name; write where(function, 'name')"),
        (lambda: where(bright) & (lambda sample: True), "has no name; write where(function, 'name')"),
        (lambda: where("font"), "is no function of a sample"),  # type: ignore[arg-type]
    ],
)
def test_a_function_alone_needs_a_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)
