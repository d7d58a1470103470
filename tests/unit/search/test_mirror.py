"""The Optuna journal beside our store."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from autotune.errors import DataError, DiskError
from autotune.search.mirror import mirror
from autotune.trial import Artifact, Trial, Value
from hwprofiles.errors import Failure

NAMES = ["size_bytes", "drop/worst"]
DIRECTIONS = ["minimize", "minimize"]

optuna.logging.set_verbosity(optuna.logging.WARNING)


def trial(number: int, state: str = "complete", **choices: str) -> Trial:
    metrics = {"size_bytes": Value.exact(100.0 - number), "drop/worst": Value(value=0.01, low=0.0, high=0.02)}
    return Trial(
        number=number,
        recipe={"quantize": choices} if choices else {},
        state=state,
        proposer="surrogate",
        artifact=Artifact(digest=f"{number:064d}", size_bytes=100 - number, dialect="ort-cpu"),
        metrics=metrics if state == "complete" else {"size_bytes": metrics["size_bytes"]},
        reason="size_bytes over 90" if state == "rejected" else "",
        failure=_failure() if state == "failed" else None,
        started_at="2026-01-02T03:04:05+00:00",
        finished_at="2026-01-02T03:04:15+00:00",
    )


def _failure() -> Failure:
    return Failure(kind="crash", message="exit -11", stage="measure")


def load(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


def test_optuna_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "run" / "optuna.log"
    trials = [
        trial(0),
        trial(1, conv0="int8"),
        trial(2, "rejected", conv0="int8", mm="w4"),
        trial(3, "failed", mm="w4"),
    ]
    assert mirror(trials, path, "s", DIRECTIONS, NAMES) == 4
    study = load(path)
    assert study.metric_names == NAMES
    assert [t.state for t in study.trials] == [
        TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    ]  # fmt: skip
    assert study.trials[0].params == {"quantize:conv0": "none", "quantize:mm": "none"}
    assert study.trials[1].values == [99.0, 0.01]
    assert study.trials[2].params == {"quantize:conv0": "int8", "quantize:mm": "w4"}
    assert study.trials[2].user_attrs["reason"] == "size_bytes over 90"
    assert study.trials[3].user_attrs["failure"] == "exit -11"
    assert study.trials[1].user_attrs["drop/worst"] == [0.01, 0.0, 0.02]
    assert study.trials[1].duration is not None
    assert study.trials[1].duration.total_seconds() == 10
    assert {t.number for t in study.best_trials} == {1}


def test_appends_only_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "optuna.log"
    mirror([trial(0)], path, "s", DIRECTIONS, NAMES)
    before = path.read_bytes()
    assert mirror([trial(0)], path, "s", DIRECTIONS, NAMES) == 0
    assert path.read_bytes() == before
    assert (
        mirror([trial(0), trial(1, conv0="int8"), trial(2, "running", conv0="int4")], path, "s", DIRECTIONS, NAMES) == 1
    )
    assert path.read_bytes().startswith(before)
    assert [t.user_attrs["autotune:number"] for t in load(path).trials] == [0, 1]


def test_known_choices_keep_distributions_the_same(tmp_path: Path) -> None:
    path = tmp_path / "optuna.log"
    choices = {"quantize:conv0": ["none", "int8", "int4"]}
    mirror([trial(0)], path, "s", DIRECTIONS, NAMES, choices=choices)
    mirror([trial(0), trial(1, conv0="int4")], path, "s", DIRECTIONS, NAMES, choices=choices)
    first, second = load(path).trials
    assert first.distributions == second.distributions


def test_a_broken_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "optuna.log"
    path.write_text("not json\n{}\n")
    with pytest.raises(DataError, match=r"optuna\.log.*delete it"):
        mirror([trial(0)], path, "s", DIRECTIONS, NAMES)


def test_another_study_s_objectives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "optuna.log"
    mirror([trial(0)], path, "s", DIRECTIONS, NAMES)
    with pytest.raises(DataError, match="holds study 's'"):
        mirror([trial(0)], path, "s", DIRECTIONS, ["size_bytes", "drop"])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        mirror([trial(0)], tmp_path / "file" / "optuna.log", "s", DIRECTIONS, NAMES)
