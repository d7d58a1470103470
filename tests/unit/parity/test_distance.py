"""What counts as different, and what is rounding."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.parity.answers import OutputTally, kind_of_output
from autotune.parity.distance import beyond, floor_of, gap, kind_of
from autotune.parity.report import Tolerance

TOLERANCE = Tolerance()


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_distance_is_relative_to_the_truth() -> None:
    found = gap(f32(3.0, 4.5), np.array([3.0, 4.0]))
    assert found.distance == pytest.approx(0.1) and found.unequal == 1 and found.step == 0.5 and not found.mismatch


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_on_one_side_is_a_mismatch(bad: float) -> None:
    found = gap(f32(1.0, bad, 3.0), np.array([1.0, 2.0, 3.0]))
    assert found.distance is None and found.mismatch == "1 element is NaN or infinite on one side only"
    assert beyond(found, "float", 1e9, TOLERANCE)
    assert gap(f32(1.0, 2.0), np.array([1.0, bad])).mismatch


def test_equal_infinities_and_nan_are_no_difference() -> None:
    values = np.array([np.inf, -np.inf, np.nan, 1.0])
    found = gap(values.astype(np.float32), values)
    assert found.distance == 0.0 and found.unequal == 0 and not found.mismatch


def test_beyond_the_range_of_float32_is_infinite_for_it() -> None:
    assert gap(f32(-np.inf, 1.0), np.array([-6.8e38, 1.0])).distance == 0.0
    assert gap(np.array([np.inf, 1.0], np.float16), np.array([1e5, 1.0])).mismatch  # float16 overflows: worth knowing


def test_shapes_and_kinds_that_differ_are_a_mismatch() -> None:
    assert gap(f32(1.0), np.array([1.0, 2.0])).mismatch == "shape [1] against [2]"
    assert gap(f32(1.0), [np.array([1.0])]).mismatch


def test_a_few_levels_may_be_off_by_one() -> None:
    truth = np.full(10_000, 100, np.uint8)
    flipped = truth.copy()
    flipped[:10] += 1
    assert not beyond(gap(flipped, truth), "levels", 0.0, TOLERANCE)
    flipped[:11] = 101
    assert beyond(gap(flipped, truth), "levels", 0.0, TOLERANCE)
    jumped = truth.copy()
    jumped[0] += 2
    assert beyond(gap(jumped, truth), "levels", 0.0, TOLERANCE)
    small = np.array([5, 6, 7], np.uint8)
    assert not beyond(gap(small + np.array([0, 0, 1], np.uint8), small), "levels", 0.0, TOLERANCE)


def test_levels_do_not_wrap_around() -> None:
    assert gap(np.array([0], np.uint8), np.array([255], np.uint8)).step == 255


def test_indices_may_not_differ_at_all() -> None:
    assert beyond(gap(np.array([3, 4]), np.array([3, 5])), "exact", 1.0, TOLERANCE)
    assert kind_of(np.array([1]), "ArgMax") == "exact" and kind_of(np.array([1], np.int8), "QLinearConv") == "levels"
    assert kind_of(np.array([1], np.int32), "MatMulInteger") == "float"


def test_what_cancels_is_held_against_what_was_summed() -> None:
    one, other = np.ones(1000), np.ones(1000) - 1e-7
    truth = one - other
    found = truth.astype(np.float32) + np.float32(6e-8)  # half a unit in the last place of 1.0
    assert beyond(gap(found, truth), "float", 1e-4, TOLERANCE)
    assert not beyond(gap(found, truth, floor=floor_of("Sub", [one, other])), "float", 1e-4, TOLERANCE)
    assert floor_of("Mul", [one, other]) == 0.0


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (f32(1, 2, 3), "numbers"),
        (np.zeros((4, 10), np.float32), "argmax"),
        (np.zeros((4, 1), np.float32), "numbers"),
        (np.full((1, 5, 4), 0.25, np.float32), "argmax"),
        (np.full((1, 5, 4), 0.3, np.float32), "numbers"),
        (np.zeros((4, 10), np.int64), "exact"),
        (np.array([["a"]], object), "exact"),
    ],
)
def test_kind_of_an_output(array: np.ndarray, kind: str) -> None:
    assert kind_of_output(array) == kind
    assert kind_of_output(array, numbers=True) == ("numbers" if kind == "argmax" else kind)


def test_agreement_counts_rows_over_all_samples() -> None:
    tally = OutputTally("y", "argmax")
    truth = np.array([[0.1, 0.9], [0.8, 0.2]])
    tally.add(0, truth.astype(np.float32), truth)
    tally.add(1, f32(0.1, 0.9, 0.4, 0.6).reshape(2, 2), truth)
    found = tally.result(TOLERANCE)
    assert found.rows == 4 and found.agreement is not None and found.agreement.value == 0.75 and not found.agrees
    assert found.agreement.low < 0.75 < found.agreement.high
    assert found.worst_sample == 1 and found.max_abs == pytest.approx(0.4)
    assert tally.result(Tolerance(agreement=0.7)).agrees


def test_a_row_of_nan_is_not_the_same_class() -> None:
    tally = OutputTally("y", "argmax")
    tally.add(0, f32(np.nan, 0.1).reshape(1, 2), np.array([[0.9, 0.1]]))
    found = tally.result(TOLERANCE)
    assert found.agreement is not None and found.agreement.value == 0.0 and found.mismatch and found.distance is None


def test_distance_of_all_samples_is_that_of_their_concatenation() -> None:
    rng = np.random.default_rng(0)
    tally = OutputTally("y", "numbers")
    truths = [rng.normal(size=50) * 10**k for k in (-2, 0, 1)]
    founds = [(t + rng.normal(size=50) * 1e-3).astype(np.float32) for t in truths]
    for index, (found, truth) in enumerate(zip(founds, truths, strict=True)):
        tally.add(index, found, truth)
    whole = np.linalg.norm(np.concatenate(founds) - np.concatenate(truths)) / np.linalg.norm(np.concatenate(truths))
    assert tally.distance == pytest.approx(whole)
    assert tally.worst_sample == 0
