"""The section on zeros is there where they were measured, and says what was."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.errors import DataError
from autotune.search.zeros import Zeros
from autotune.trial import Value
from dashboards.info.sparsity import sparsity
from dashboards.page import render
from dashboards.page.zeros import sparsity_section

PI = Zeros(
    target="pi", fingerprint="f", choice="zeros-90%", layers=12, dense_download=4_000_000, download=1_000_000,
    time=Value(value=1.002, low=0.99, high=1.013),
)  # fmt: skip
GPU = PI.model_copy(update={"target": "gpu", "choice": "2:4", "time": Value(value=0.62, low=0.6, high=0.65)})
BROKEN = PI.model_copy(update={"choice": "2:4", "time": None, "failure": "<the agent died>"})


class Store:
    def __init__(self, **meta: object) -> None:
        self._meta = meta

    def meta(self, key: str) -> object:
        return self._meta.get(key)


def store(*rows: Zeros) -> Store:
    by: dict[str, list[object]] = {}
    for row in rows:
        by.setdefault(f"zeros/{row.target}", []).append(row.model_dump(mode="json"))
    return Store(**by)


def test_rows_are_what_was_measured() -> None:
    first, second, third = sparsity(store(PI, GPU, BROKEN), ("pi", "gpu"))
    assert (first.saved, first.faster, first.verdict) == (0.75, False, "no speed-up here, measured")
    assert (second.target, second.time, second.verdict) == ("pi", None, "<the agent died>")
    assert (third.faster, third.verdict) == (True, "it is faster")
    assert sparsity(store(PI), ("gpu",)) == ()


def test_the_section_says_it() -> None:
    text = str(sparsity_section(sparsity(store(PI, BROKEN), ("pi",))))
    assert "No speed-up, measured: zeros-90% on pi." in text and "kernel" not in text and "75" in text and "12" in text
    assert "&lt;the agent died&gt;" in text
    assert "Faster: 2:4 on gpu." in str(sparsity_section(sparsity(store(PI, GPU), ("pi", "gpu"))))
    assert sparsity_section(()) is None


def test_what_is_not_told_apart_is_no_speed_up_and_no_verdict() -> None:
    wide = PI.model_copy(update={"time": Value(value=0.984, low=0.609, high=1.589)})
    (row,) = sparsity(store(wide), ("pi",))
    assert row.undecided and row.verdict == "its time is not told apart from that of the dense model"
    text = str(sparsity_section((row,)))
    assert "Not told apart from the dense model: zeros-90% on pi" in text and "o speed-up" not in text


def test_the_page_has_it_where_zeros_were_measured(study: Any, make_store: Any) -> None:
    plain = study.store()
    assert 'href="#zeros"' not in render(plain)
    target = study.config().targets[0]
    there = make_store(
        plain.trials(outcomes=True),
        plain.config_json,
        {f"zeros/{target}": [PI.model_copy(update={"target": target}).model_dump(mode="json")]},
    )
    page = render(there)
    assert 'href="#zeros"' in page and "What zeros buy" in page


def test_a_damaged_record_is_told() -> None:
    with pytest.raises(DataError, match="'zeros/pi' cannot be read"):
        sparsity(Store(**{"zeros/pi": [{"choice": 1}]}), ("pi",))
