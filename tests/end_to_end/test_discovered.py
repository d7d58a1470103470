"""Discovered slices from end to end: found on the search data, confirmed or not on held-out data, and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.judge.predictions import Predictions
from autotune.report import write_report
from autotune.search.judging import Judged, Judging
from autotune.workload import Dataset, Sample
from tests.end_to_end import tiny

NAME = "discovered: camera=old"
JUDGE = {
    "limit": 0.02,
    "floor": 30,
    "probe": 0,
    "workers": 1,
    "noise": False,
    "automatic": (),
    "sequential": False,
    "discover": 3,
}


def data(name: str, seed: int) -> Dataset:
    """240 pictures of two cameras, which no slice is about."""
    rng = np.random.default_rng(seed)
    samples = [
        Sample(
            f"{name}{i}",
            {"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)},
            0,
            {"side": "left" if i % 2 else "right", "camera": "old" if i % 3 == 0 else "new"},
        )
        for i in range(240)
    ]
    return Dataset(name, samples)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losing: tuple[str, ...]) -> Any:
    """A study whose compressed models get half of the pictures of the old camera wrong, in the data sets of these
    names. The original is right everywhere."""

    def answers(self: Judging, digest: str, judged: Judged) -> Predictions:
        found = judged.original
        if digest == self.baseline() or judged.dataset.name not in losing:
            return found
        lost = [s.metadata["camera"] == "old" and i % 4 < 2 for i, s in enumerate(judged.dataset.samples)]
        changed = tuple(1 if bad else answer for bad, answer in zip(lost, found.predictions, strict=True))
        return Predictions(found.ids, changed, 0.0)

    monkeypatch.setattr(Judging, "_answers", answers)
    config = tiny.config(
        judge=JUDGE,
        search={"trials": 2, "swaps": 0.0},
        techniques={"quantize": {"calibration_samples": 4, "choices": ["w8-load", "int8-static"]}},
        finalists={"count": 1, "parity": 0},
    )
    workload = tiny.workload(
        search=data("search", 1), heldout=data("heldout", 2), decode=lambda outputs: [0] * len(outputs["y"])
    )
    study = tiny.open_study(tmp_path / "s.db", config, workload)
    with study:
        summary = study.run()
        assert summary.finalists
        (kept,) = study.store.meta("discovered")
        (number, *_) = summary.finalists
        (heldout,) = [e for e in study.store.trial(number).evaluations if e.dataset == "heldout"]
        page = write_report(study.store, tmp_path / "report.html").read_text()
    return kept, heldout, summary, page


def test_fresh_data_confirm_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, heldout, summary, page = run(tmp_path, monkeypatch, ("search", "heldout"))
    assert (kept["name"], kept["text"], kept["n"]) == (NAME, "camera=old", 80)
    assert set(kept["confirmed"]) == set(summary.finalists)
    found = heldout.slice(NAME)
    assert (found.kind, found.hypothesis, found.verdict) == ("discovered", False, "fail")
    assert found.drop.value == pytest.approx(0.5)
    assert heldout.share == 0.5, "one finalist was planned; a half is left for more"
    assert NAME in page


def test_what_fresh_data_do_not_show_stays_a_hypothesis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, heldout, _, page = run(tmp_path, monkeypatch, ("search",))
    assert kept["name"] == NAME and kept["confirmed"] == []
    found = heldout.slice(NAME)
    assert found.hypothesis and found.drop.value == 0 and found.verdict != "fail"
    assert "hypothesis" in page
