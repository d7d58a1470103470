"""A budget from the command line to the answer: the best recipe within it, or what keeps there from being one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotune.errors import UsageError
from autotune.search.shortfall import kept_predicted
from autotune.store import open_store
from tests.end_to_end.test_cli import autotune, new_study
from tests.end_to_end.tiny import config, open_study


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


def test_a_budget_on_memory_is_learnt_and_answered_by_the_model(searched: Path) -> None:
    """No recipe comes near a megabyte, and nobody says that one might."""
    answer = autotune("run", "tiny", "--max-memory", "1MB", "--trials", "5", folder=searched, code=3)
    assert "no trial reaches memory_peak@local" in answer.stderr.splitlines()[-1]
    assert "more trials may find it" not in answer.stdout and "not solved for" not in answer.stdout
    with open_store(searched / "autotune-runs" / "tiny" / "store.db", "tiny", must_exist=True) as store:
        prediction, least = kept_predicted(store), min(t.metrics["memory_peak@local"].value for t in store.trials())
    assert prediction is not None and not prediction.feasible
    assert prediction.excess["memory_peak@local"] == pytest.approx(least - 1e6, rel=0.2)
    assert "by the model of the search one limit would have to give: memory_peak@local by " in answer.stdout


def test_a_budget_that_no_model_predicts_is_said_to_be_filtered_by(searched: Path) -> None:
    words = ("--max-size", "60kB", "--max-drop", "90pt", "--min-accuracy", "99.99%", "--trials", "5")
    answer = autotune("run", "tiny", *words, folder=searched, code=3)
    assert "accuracy is not solved for, as no model of the search predicts it" in " ".join(answer.stderr.split())
    assert "more trials may find it" not in answer.stdout
    assert "not solved for, only filtered by, as no model predicts it: accuracy; nearest trial " in answer.stdout


def test_a_limit_of_no_loss_is_refused_by_every_command_before_anything_runs(searched: Path, tmp_path: Path) -> None:
    said = "drop/worst of at most 0 pt cannot be shown by any number of samples"
    answer = autotune("run", "tiny", "--max-drop", "0pt", folder=searched, code=2)
    assert answer.stderr.startswith(f"autotune: --max-drop 0pt: {said}") and len(answer.stderr.splitlines()) == 1
    for table in ("budget", "constraints"):
        folder = tmp_path / table
        folder.mkdir()
        new_study(folder, more=f'\n[{table}]\n"drop/worst" = "0pt"\n')
        for command in ("check", "run"):
            answer = autotune(command, "tiny", folder=folder, code=2)
            assert f"{table}.drop/worst: {said}" in answer.stderr and len(answer.stderr.splitlines()) == 1
    with pytest.raises(UsageError, match=said):
        open_study(tmp_path / "store.db", config(budget={"drop/worst": 0.0}))


def test_what_lost_nothing_as_measured_can_be_asked_for_afterwards(searched: Path) -> None:
    """`front` filters what is there by what was measured."""
    front = json.loads(autotune("front", "tiny", "--max", "drop/worst=0pt", "--json", folder=searched).stdout)["front"]
    assert front and all(point["metrics"]["drop/worst"]["value"] <= 0 for point in front)


def test_a_search_that_is_too_short_to_be_stable_says_so(searched: Path) -> None:
    words = ("--max-size", "40kB", "--max-drop", "90pt", "--trials", "5", "--until-stable")
    said = " ".join(autotune("run", "tiny", *words, folder=searched).stderr.split())
    assert "until_stable (--until-stable) changes nothing here: it looks back on 31 trials" in said
    assert "this study has 5 in all; it needs at least 32" in said


def _with_room(folder: Path) -> Path:
    file = folder / "tiny" / "study.toml"
    file.write_text(file.read_text().replace('size_bytes = "1kB"', 'size_bytes = "10MB"'))
    return folder
