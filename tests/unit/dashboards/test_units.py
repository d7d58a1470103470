"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.info import units


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [(0, "0 B"), (999, "999 B"), (13_080_000, "13.1 MB"), (2_500_000_000, "2.5 GB"), (1234, "1.23 kB")],
)
def test_size(bytes_: float, text: str) -> None:
    assert units.size(bytes_) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0187, "18.7 ms"), (0.00004, "40 µs"), (2.5, "2.5 s")])
def test_time(seconds: float, text: str) -> None:
    assert units.time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4.2 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_points_have_a_real_minus_and_no_negative_zero() -> None:
    assert units.points(-0.0123) == "−1.2" and units.points(-0.0001) == "0.0"
    assert units.points(0.013, sign=True) == "+1.3"


@given(st.text(max_size=80), st.integers(min_value=3, max_value=40))
def test_shorten_keeps_the_width_and_both_ends(text: str, width: int) -> None:
    short = units.shorten(text, width)
    assert len(short) <= max(width, 3) and (short == text or (len(text) > width and short.endswith(text[-1])))


@given(st.floats(min_value=1e-12, max_value=1e15))
def test_number_never_shows_an_exponent(value: float) -> None:
    assert "e" not in units.number(value)
