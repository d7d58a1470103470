"""What confirms a model is told by the role of the data, whatever names the user gave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autotune.api.tables import LOOKS, verdict_data
from tests.end_to_end import tiny


def test_only_held_out_data_confirm_a_trial(tmp_path: Path) -> None:
    given = tiny.workload()
    named = replace(given, search=replace(given.search, name="heldout"), heldout=replace(given.heldout, name="test"))
    config = tiny.config(
        search={"trials": 2, "swaps": 0.0},
        judge={"limit": 0.9, "floor": 5, "probe": 0, "workers": 1, "noise": False},
        techniques={"quantize": {"calibration_samples": 4, "choices": ["w8-load", "int8-static"]}},
        finalists={"count": 1, "parity": 0},
    )
    with tiny.open_study(tmp_path / "s.db", config, named) as study:
        finalists = study.run().finalists
        trials = [each for each in study.store.trials() if each.number and each.state == "complete"]
    confirmed, searched = ([t for t in trials if (t.number in finalists) is there] for there in (True, False))
    assert confirmed and searched
    for trial in confirmed:
        found = verdict_data(trial)
        assert found["judged_on"] == "heldout" and not str(found["verdict"]).startswith(LOOKS)
    for trial in searched:
        found = verdict_data(trial)
        assert found["judged_on"] == "search" and found["verdict"] in (f"{LOOKS} pass", f"{LOOKS} fail", "undecided")
