"""Which slices are said to be too small before a search, and that the size that is named would do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from autotune.config import StudyConfig
from autotune.judge.power import enough_for
from autotune.judge.spending import share
from autotune.search.slice_sizes import too_small
from autotune.trial import Value

ORIGINAL = {"accuracy": Value.exact(0.92), "accuracy/night": Value.exact(0.9), "f1/night": Value.exact(0.8)}
LARGE = 10**6


def said(sizes: dict[str, int], **changes: object) -> list[str]:
    config = StudyConfig.model_validate({"name": "s", "judge": {"limit": 0.02}, **changes})
    return too_small(config, sizes, ORIGINAL)


def test_large_slices_need_no_remark() -> None:
    limits = {"drop/night": 0.01, "drop/worst": 0.01, "accuracy/night": 0.89}
    assert said({"all": LARGE, "night": LARGE}, constraints=limits) == []
    assert said({"all": LARGE, "night": LARGE}, budget=limits) == []


@pytest.mark.parametrize("table", ["constraints", "budget"])
def test_a_limit_that_a_slice_is_too_small_for(table: str) -> None:
    """It is told with the size needed, whichever table says it."""
    enough = enough_for(0.01, share=share(0, 3))
    (line,) = said({"all": LARGE, "night": enough - 1}, **{table: {"drop/night": 0.01}})
    assert line == (f"slice 'night' has {enough - 1} samples and a limit of 1 points; about {enough:,} would decide")
    assert said({"all": LARGE, "night": enough}, **{table: {"drop/night": 0.01}}) == []
    (line,) = said({"all": LARGE, "night": LARGE, "day": 900}, **{table: {"drop/worst": 0.005}})
    assert line.startswith("1 of 3 slices are too small to pass 0.5 points for certain: about ")
    (line,) = said({"all": 900, "night": LARGE}, **{table: {"drop": 0.005}})
    assert line.startswith("slice 'all' has 900 samples and a limit of 0.5 points")
    (line,) = said({"all": LARGE, "night": 900}, **{table: {"drop/f1:night": 0.005}})
    assert line.startswith("slice 'night' has 900 samples and a limit of 0.5 points")


def test_a_limit_on_the_metric_of_a_slice() -> None:
    """The size that is named decides: the lower end of the interval lies above the limit in 80 % of draws."""
    (line,) = said({"all": LARGE, "night": 500}, constraints={"accuracy/night": 0.88})
    found = re.fullmatch(
        r"slice 'night' has 500 samples and a limit of 88.0 % on accuracy; about ([0-9,]+) would decide", line
    )
    assert found
    n = int(found[1].replace(",", ""))
    drawn = np.random.default_rng(0).binomial(n, 0.9, 20_000) / n
    lower = drawn - 1.96 * np.sqrt(drawn * (1 - drawn) / n)
    assert np.mean(lower > 0.88) == pytest.approx(0.8, abs=0.03)
    assert said(
        {"all": LARGE, "night": 500}, constraints={"accuracy/night": 0.95, "size_bytes": 1e6, "flips": 0.1}
    ) == said({"all": LARGE, "night": 500}), "more than the original has, costs and flips are told elsewhere"


def test_of_several_limits_the_hardest_and_the_floor_for_the_rest() -> None:
    (line,) = said({"all": LARGE, "night": 300}, constraints={"drop/night": 0.02, "accuracy/night": 0.899})
    assert "a limit of 89.9 % on accuracy" in line
    (line,) = said({"all": LARGE, "dusk": 90})
    assert line == "slice 'dusk' has 90 samples: fewer than judge.floor = 200 pass nothing"


def test_a_faultless_original_still_needs_samples() -> None:
    """With no wrong answer at all, n samples show an accuracy of `limit` where limit**n is below 2.5 %."""
    config = StudyConfig.model_validate({"name": "s", "constraints": {"accuracy/night": 0.995}})
    original = {"accuracy": Value.exact(1.0), "accuracy/night": Value.exact(1.0)}
    (line,) = [text for text in too_small(config, {"all": LARGE, "night": 300}, original) if "accuracy" in text]
    assert "about 736 would decide" in line and 0.995**736 <= 0.025 < 0.995**735
    assert not [t for t in too_small(config, {"all": LARGE, "night": 736}, original) if "accuracy" in t]
