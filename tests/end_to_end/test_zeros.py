"""What zeros buy is measured for the study as it is: never read back of another recipe, or of a failed measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.search.check import CheckReport
from autotune.search.progress import Progress
from autotune.search.zeros import KEY, Zeros, known
from autotune.techniques import sparsify
from autotune.trial import Value
from tests.end_to_end import tiny


def check(store: Path, **changes: Any) -> tuple[CheckReport, tuple[Zeros, ...], bool]:
    """The report, what the store holds then, and whether zeros were measured for it."""
    told: list[Progress] = []
    techniques = {"sparsify": {"shares": [0.5], "patterns": [], "method": "magnitude"}}
    config = tiny.config(**{"techniques": techniques, "finalists": {"count": 0}, **changes})
    with tiny.open_study(store, config) as study:
        report = study.check(told.append)
        return report, known(study.store, "local"), any("what zeros buy" in each.message for each in told)


def settle(store: Path, found: Zeros) -> None:
    """Keep a measurement as one that has told: how noisy this machine is, decides nothing here."""
    told = found.model_copy(update={"time": Value(value=1.0, low=0.99, high=1.01)})
    with tiny.open_study(store) as study:
        study.store.set_meta(f"{KEY}local", [told.model_dump(mode="json")])


def test_another_recipe_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsify, "MIN_WEIGHTS", 1)  # the model is tiny
    store = tmp_path / "study.db"
    report, (first,), measured = check(store)
    assert measured and first.time is not None and first.recipe
    layers = [each.name for each in report.layers]
    assert first.layers == len(layers) > 1
    settle(store, first)
    first = check(store)[1][0]
    assert check(store)[1:] == ((first,), False)
    report, (other,), measured = check(store, exclude=(layers[0],))
    assert measured and (other.choice, other.layers) == (first.choice, len(layers) - 1)
    assert [note for note in report.notes if other.sentence in note]
    assert not [note for note in report.notes if first.sentence in note]


def test_what_failed_is_measured_again(tmp_path: Path) -> None:
    store = tmp_path / "study.db"
    _, (first,), _ = check(store)
    failed = first.model_copy(update={"time": None, "failure": "the agent died"})
    with tiny.open_study(store) as study:
        study.store.set_meta(f"{KEY}local", [failed.model_dump(mode="json")])
    _, (again,), measured = check(store)
    assert measured and again.time is not None and not again.failure


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.984, 0.609, 1.589), "undecided"),
        ((0.99, 0.975, 1.01), "the same"),
        ((0.99, 0.965, 1.01), "undecided"),
        ((1.0, 1.0, 1.0), "undecided"),  # one pair
        ((0.5, 0.5, 0.5), "undecided"),
        ((0.97, 0.96, 0.98), "faster"),
        ((1.2, 1.1, 1.3), "slower"),
    ],
)
def test_only_a_narrow_interval_is_no_speed_up(interval: tuple[float, float, float], verdict: str) -> None:
    value, low, high = interval
    found = Zeros(
        target="pi", fingerprint="f", choice="2:4", layers=3, dense_download=9, download=5,
        time=Value(value=value, low=low, high=high),
    )  # fmt: skip
    assert (found.verdict, found.undecided, found.faster) == (verdict, verdict == "undecided", verdict == "faster")
    assert ("no speed-up" in found.sentence) is (verdict == "the same")
    assert ("not told apart" in found.sentence) is found.undecided
    assert ("one pair" in found.sentence) is (low == high)


def test_what_was_not_told_apart_is_measured_again(tmp_path: Path) -> None:
    store = tmp_path / "study.db"
    _, (first,), _ = check(store)
    wide = first.model_copy(update={"time": Value(value=7.0, low=0.6, high=11.0)})
    with tiny.open_study(store) as study:
        study.store.set_meta(f"{KEY}local", [wide.model_dump(mode="json")])
    _, (again,), measured = check(store)
    assert measured and again.time is not None and again.time.value < 7.0


def test_zeros_by_another_method_are_measured_anew(tmp_path: Path) -> None:
    store = tmp_path / "study.db"
    zeros = {"shares": [0.5], "patterns": []}
    _, (first,), _ = check(store)
    _, (other,), measured = check(store, techniques={"sparsify": {**zeros, "method": "wanda"}})
    assert measured and other.choice == first.choice and other.meaning != first.meaning


def test_no_finalists_take_no_time(tmp_path: Path) -> None:
    report, _, _ = check(tmp_path / "study.db", search={"trials": 2, "swaps": 0})
    assert report.finalists == 0
    assert report.seconds_total < 2 * 2 * report.seconds_per_trial  # trials, and the search for sensitive layers
