"""A budget from the command line to the answer: the best recipe within it, or what keeps there from being one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.test_cli import autotune, new_study


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study `tiny` has been run within a size that some of its recipes have."""
    folder = tmp_path_factory.mktemp("budget")
    new_study(folder, trials=5)
    answer = autotune("run", "tiny", "--max-size", "40kB", "--max-drop", "90pt", "--json", folder=folder)
    (folder / "summary.json").write_text(answer.stdout)
    return folder


def test_the_best_recipe_within_the_budget(searched: Path) -> None:
    budget = json.loads((searched / "summary.json").read_text())["budget"]
    assert budget["met"] and budget["trial"] > 0 and budget["made_best"] == "latency_ratio@local"
    limits = {limit["key"]: limit for limit in budget["limits"]}
    assert limits["size_bytes"]["value"] <= 40e3 and limits["size_bytes"]["certain"]
    assert limits["drop/worst"]["limit"] == 0.9


def test_people_read_the_same_with_its_margins(searched: Path) -> None:
    answer = autotune("run", "tiny", "--max-size", "40kB", "--max-drop", "90pt", folder=searched)
    assert "best in the budget: trial " in answer.stdout
    assert "at most 40 kB: " in answer.stdout


def test_a_budget_that_nothing_meets(searched: Path) -> None:
    answer = autotune("run", "tiny", "--max-latency-ratio", "0.01x", folder=searched, code=3)
    assert "nothing is within the budget: no trial reaches latency_ratio@local" in answer.stderr.splitlines()[-1]
    assert "best seen of each limit:" in answer.stdout
    assert "where the time of trial " in answer.stdout and "of one profiled inference" in answer.stdout
    found = autotune("run", "tiny", "--max-latency-ratio", "0.01x", "--json", folder=searched, code=3)
    budget = json.loads(found.stdout)["budget"]
    assert not budget["met"] and budget["constraint"] == "latency_ratio@local"
    assert budget["missing_by"] == pytest.approx(budget["value"] - 0.01)
    assert budget["time"]["layers"] and budget["time"]["target"] == "local"


def test_a_size_that_no_recipe_can_have_is_told_before_anything_is_searched(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    folder.mkdir()
    new_study(folder, more='\n[budget]\nsize_bytes = "1kB"\n')
    for command in ("check", "run"):
        answer = autotune(command, "tiny", folder=folder, code=3)
        last = answer.stderr.splitlines()[-1]
        assert last.startswith("autotune: the smallest possible model is ") and "cannot be met" in last
    assert "limits nothing: the original takes" in " ".join(
        autotune("check", "tiny", "--store", tmp_path / "other.db", folder=_with_room(folder)).stdout.split()
    )


def _with_room(folder: Path) -> Path:
    file = folder / "tiny" / "study.toml"
    file.write_text(file.read_text().replace('size_bytes = "1kB"', 'size_bytes = "10MB"'))
    return folder
