"""A target that is far away: which layers are sensitive is found out on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from autotune.search.study import Study
from tests.end_to_end import tiny

FAR = """
threads = 1
transport = "command"
python = "{python}"

[options]
prefix = ["env"]
folder = "{folder}/far"
quiet_wait = 0.0
quiet_wait_final = 0.0
"""


def test_sensitive_layers_are_found_here_where_the_target_is_far_away(tmp_path: Path) -> None:
    (tmp_path / "far.toml").write_text(FAR.format(python=sys.executable, folder=tmp_path))
    config = tiny.config(targets=("far",))
    with Study.open(config, tiny.workload(), store=tmp_path / "s.db", folder=tmp_path) as study:
        study.check()
        prepared, runner = study._start(lambda _: None)
        assert prepared.judge_target == "far" and prepared.host is not None
        assert runner.probing.active and runner.probing.where == "here (local)"
        variable = prepared.space.variables[0]
        nothing = {v.name: v.choices[0] for v in prepared.space.variables}
        recipe = prepared.space.recipe(nothing | {variable.name: variable.choices[-1]})
        here = runner.probing.sensitivity(recipe)
        assert set(here) == {"all", "side=left", "side=right"} and here["all"] > 0
        assert runner.probing.sensitivity(recipe) == here  # from the store


def test_a_target_on_this_machine_does_it_itself(tmp_path: Path) -> None:
    with tiny.open_study(tmp_path / "s.db") as study:
        study.check()
        prepared, runner = study._start(lambda _: None)
        assert prepared.host is None and runner.probing.where == "on local"
