"""The command line where a search stops by itself, and where one begins with what an earlier one knows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autotune.search.timing import Timing
from autotune.store import open_store
from hwprofiles.measurement import Measurement
from hwprofiles.scenario import Scenario
from tests.end_to_end.test_cli import autotune, new_study


def test_a_search_stops_by_itself_when_the_front_does_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured once for all trials, which is quick; size and loss are real, and their front is soon complete."""
    measure, known = Timing.measure, {}

    def once(self: Timing, target: str, digest: str, scenario: Scenario) -> Measurement:
        key = scenario.model_dump_json()
        if key not in known:
            known[key] = measure(self, target, digest, scenario)
        return known[key]

    monkeypatch.setattr(Timing, "measure", once)
    study = new_study(tmp_path, trials=120) / "study.toml"
    text = study.read_text()
    text, count = re.subn(r"(?m)^objectives = .*$", 'objectives = ["size_bytes", "drop/worst"]', text)
    assert count == 1
    study.write_text(text)
    answer = autotune("run", "tiny", "--until-stable", folder=tmp_path)
    with open_store(tmp_path / "autotune-runs" / "tiny" / "store.db", "tiny", must_exist=True) as store:
        ended = [trial for trial in store.trials(details=False) if trial.number]
        outlook = store.meta("outlook")
    assert 30 <= len(ended) < 120 and all(trial.state != "running" for trial in ended)
    said = r"the front has stopped moving: 10 more trials \(about \d+ s\) would bring about \+0"
    assert re.match(said, outlook["stopped"]) and outlook["forecast"]["seconds"] > 0
    assert "the search ends: the front has stopped moving" in " ".join(answer.stderr.split())
    assert "finalists" in answer.stderr and "report:" in answer.stdout


def test_a_run_learns_from_an_earlier_one_and_from_a_recipe(tmp_path: Path) -> None:
    new_study(tmp_path, trials=4)
    autotune("run", "tiny", folder=tmp_path)
    study = tmp_path / "tiny" / "study.toml"
    study.write_text(study.read_text().replace('name = "tiny"', 'name = "later"'))
    earlier = tmp_path / "autotune-runs" / "tiny" / "store.db"
    with open_store(earlier, "tiny", must_exist=True) as store:
        done = [t for t in store.trials() if t.state == "complete" and "quantize" in t.recipe]
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(done[0].recipe))
    words = ("--trials", "2", "--warm-start", "autotune-runs/tiny/store.db", "--warm-start", "recipe.json")
    answer = autotune("run", "tiny", *words, folder=tmp_path)
    with open_store(tmp_path / "autotune-runs" / "later" / "store.db", "later", must_exist=True) as store:
        trials = [trial for trial in store.trials(details=False) if trial.number]
    assert trials and all(trial.proposer == "warm start" for trial in trials)
    said = " ".join(answer.stderr.split())
    assert "recipe recipe.json: 1 of 1 recipes begin the search" in said
    assert "autotune-runs/tiny/store.db" in said
    refused = autotune("run", "tiny", "--warm-start", "nowhere.json", folder=tmp_path, code=65)
    assert "autotune: warm start 'nowhere.json': nowhere.json: cannot be read" in refused.stderr
