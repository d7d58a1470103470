"""What zeros buy is measured for the study as it is: never read back of another recipe, or of a failed measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.search.check import CheckReport
from autotune.search.progress import Progress
from autotune.search.zeros import KEY, Zeros, known
from autotune.techniques import sparsify
from tests.end_to_end import tiny


def check(store: Path, **changes: Any) -> tuple[CheckReport, tuple[Zeros, ...], bool]:
    """The report, what the store holds then, and whether zeros were measured for it."""
    told: list[Progress] = []
    techniques = {"sparsify": {"shares": [0.5], "patterns": [], "method": "magnitude"}}
    config = tiny.config(**{"techniques": techniques, "finalists": {"count": 0}, **changes})
    with tiny.open_study(store, config) as study:
        report = study.check(told.append)
        return report, known(study.store, "local"), any("what zeros buy" in each.message for each in told)


def test_another_recipe_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsify, "MIN_WEIGHTS", 1)  # the model is tiny
    store = tmp_path / "study.db"
    report, (first,), measured = check(store)
    assert measured and first.time is not None and first.recipe
    layers = [each.name for each in report.layers]
    assert first.layers == len(layers) > 1
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
