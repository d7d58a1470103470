"""After an operator that may round by itself, it counts how far off levels are, not how many."""

from __future__ import annotations

import numpy as np

from autotune.parity.distance import gap
from autotune.parity.report import Tolerance
from autotune.parity.trace import _wrong

TRUE = np.full(1000, 100, np.uint8)
NEAR = TRUE + np.tile(np.array([0, 1], np.uint8), 500)  # half of the levels are off by one: 0.7 % away


def test_many_levels_off_by_one_are_rounding_only_where_rounding_is_permitted() -> None:
    found = gap(NEAR, TRUE)
    assert not _wrong(found, "levels", 0.02, True, Tolerance())
    assert _wrong(found, "levels", 0.02, False, Tolerance())


def test_levels_far_off_are_wrong_even_where_rounding_is_permitted() -> None:
    assert _wrong(gap(TRUE + np.uint8(10), TRUE), "levels", 0.02, True, Tolerance())
