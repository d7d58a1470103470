"""Metric keys: one grammar, one way back, amounts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.keys import WORST_ANYWHERE, MetricKey, format_amount, names_target, parse_amount, parse_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("size_bytes", MetricKey("size_bytes")),
        ("latency_p50@rpi5", MetricKey("latency_p50", None, "rpi5")),
        ("accuracy/blur@rpi5", MetricKey("accuracy", "blur", "rpi5")),
        ("drop/worst", MetricKey("drop", "worst")),
        ("drop/font=DejaVu Sans", MetricKey("drop", "font=DejaVu Sans")),
        ("flips/a/b", MetricKey("flips", "a/b")),
    ],
)
def test_keys_parse_and_print_back(text: str, key: MetricKey) -> None:
    assert parse_key(text, metric="accuracy") == key
    assert str(key) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "malformed"),
        ("size bytes", "malformed"),
        ("size_bytes\n", "malformed"),
        ("drop/", "malformed"),
        ("drop/worst@", "malformed"),
        ("drop@-oProxy", "malformed"),
        ("latency_p50", "needs a target"),
        ("size_bytes/blur", "has no slices"),
        ("acuracy/worst", "did you mean 'accuracy'"),
        ("latency_p5O@pi", "latency_p50"),
    ],
)
def test_bad_keys_say_what_to_do(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_key(text, metric="accuracy")


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
SLICES = st.none() | st.text(
    st.characters(exclude_characters="@\n", exclude_categories=("Cs",)), min_size=1, max_size=12
)
TARGETS = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)


@given(st.builds(MetricKey, NAMES, SLICES, TARGETS))
def test_every_key_survives_the_round_trip(key: MetricKey) -> None:
    if key.name in ("size_bytes", "latency_p50", "latency_p90", "latency_ratio", "memory_peak", "energy_j"):
        return
    assert parse_key(str(key)) == key


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("10MB", "size_bytes", 10e6),
        ("10 mb", "size_bytes", 10e6),
        ("1.5GiB", "memory_peak@t", 1.5 * 2**30),
        ("8ms", "latency_p50@t", 0.008),
        ("250µs", "latency_p90@t", 0.00025),
        ("0.008", "latency_p50@t", 0.008),
        ("2.5x", "latency_ratio@t", 2.5),
        ("83%", "latency_ratio@t", 0.83),
        ("1pt", "drop/worst", 0.01),
        ("-0.5pt", "drop/worst", -0.005),
        ("93 %", "accuracy/worst", 0.93),
        ("5mJ", "energy_j@t", 0.005),
    ],
)
def test_amounts(text: str, key: str, value: float) -> None:
    assert parse_amount(text, parse_key(key)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("ten", "size_bytes"),
        ("", "size_bytes"),
        ("nan", "drop/worst"),
        ("inf", "drop/worst"),
        ("1e999", "drop/worst"),
        ("8ms", "size_bytes"),
        ("10MB", "latency_p50@t"),
        ("1pt", "latency_ratio@t"),
        ("10MB; rm -rf /", "size_bytes"),
    ],
)
def test_bad_amounts_name_the_key(text: str, key: str) -> None:
    with pytest.raises(UsageError, match=key):
        parse_amount(text, parse_key(key))


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (3_061_234, "size_bytes", "3.06 MB"),
        (999, "size_bytes", "999 B"),
        (0.00823, "latency_p50@t", "8.23 ms"),
        (0.8312, "latency_ratio@t", "0.831x"),
        (0.0104, "drop/worst", "1.0 pt"),
        (-0.0002, "drop/worst", "0.0 pt"),
        (0.9375, "accuracy", "93.8 %"),
        (0.0, "size_bytes", "0 B"),
    ],
)
def test_formatting(value: float, key: str, text: str) -> None:
    assert format_amount(value, parse_key(key)) == text


def test_direction() -> None:
    assert parse_key("drop/worst").smaller_is_better
    assert parse_key("size_bytes").smaller_is_better
    assert not parse_key("accuracy/worst").smaller_is_better


def test_a_size_may_name_the_target_whose_dialect_it_is_of() -> None:
    assert parse_key("size_bytes@h200") == MetricKey("size_bytes", target="h200")
    assert str(parse_key("drop/worst@worst")) == WORST_ANYWHERE


@pytest.mark.parametrize(
    ("text", "named"),
    [("drop/worst", True), ("drop/worst@pi", True), (WORST_ANYWHERE, True), ("drop/worst@h200", False),
     ("accuracy@worst", False)],
)  # fmt: skip
def test_a_key_names_a_target_of_the_study_or_the_worst_of_all(text: str, named: bool) -> None:
    assert names_target(parse_key(text), ["pi"]) is named
