"""A study of two targets, one of which is not there when it begins, or cannot run the model: the other goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import DataError
from autotune.search.progress import Progress
from autotune.search.study import RunSummary, Study
from autotune.store import open_store
from hwprofiles.errors import DeviceFailure, TargetUnavailable
from tests.end_to_end import tiny
from tests.end_to_end.test_several_targets import PATIENCE, Machine, is_whole, trials_of

CRASHES = '''"""A runtime that dies of a signal as soon as it sees a model."""
import os, signal, sys
os.kill(os.getpid(), signal.SIGSEGV)
'''
RUNNER = """
transport = "command"
runtime = "runner"
python = "{python}"
threads = 1

[options]
prefix = ["env"]
folder = "{folder}/far"
runner = "{folder}/crashes.py"
quiet_wait = 0.0
quiet_wait_final = 0.0
"""

SHORT: dict[str, Any] = {  # whether a study begins, not what it finds
    "search": {"trials": 1, "swaps": 0},
    "techniques": {"quantize": {"choices": ["w8-load"]}},
    "measure": tiny.QUICK,
    "finalists": {"count": 0},
}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def study(machine: Machine, *, targets: tuple[str, ...] = ("local", "other"), **changes: Any) -> Study:
    config = tiny.config(**{"targets": targets, "patience": PATIENCE, **SHORT, **changes})
    return Study.open(config, tiny.workload(), store=machine.folder / "store.db", folder=machine.folder)


def run(machine: Machine, **changes: Any) -> tuple[RunSummary, list[str]]:
    told: list[Progress] = []
    with study(machine, **changes) as opened:
        summary = opened.run(told.append)
    return summary, [each.message for each in told if each.stage == "targets"]


def recorded(machine: Machine) -> dict[str, Any]:
    with open_store(machine.folder / "store.db", "tiny", must_exist=True) as store:
        found: dict[str, Any] = json.loads(store.config_json or "")
    return found


def test_an_absent_target_is_left_out_with_what_names_it(machine: Machine) -> None:
    machine.switch_off(abruptly=False)
    limits = {"latency_ratio@other": 0.9, "latency_ratio@local": 50.0}
    summary, said = run(machine, constraints=limits, finalists={"count": 1})
    assert summary.trials == 2 and not summary.gone and summary.finalists
    line, keys, advice = said
    assert line.startswith("target other is LEFT OUT of this study: ") and line.endswith("; it goes on with local")
    assert keys == "  with it go constraint latency_ratio@other" and "\n" not in "".join(said)
    assert "`autotune targets probe other --folder FOLDER-OF-THE-STUDY`" in advice and "begin with another" in advice
    found = recorded(machine)
    assert found["targets"] == ["local"] and found["constraints"] == {"latency_ratio@local": 50.0}
    (left,) = found["left_out"]
    assert left["target"] == "other" and "no route to host" in left["why"], "the whole reason is kept"
    assert all("@other" not in key for trial in trials_of(machine) for key in trial.metrics)


def test_when_it_is_back_the_study_says_that_it_was_begun_without_it(machine: Machine) -> None:
    machine.switch_off(abruptly=False)
    run(machine)
    _, said = run(machine)
    assert len(said) == 1 and said[0].startswith("target other stays left out, as at the beginning of this study: ")
    machine.switch_on()
    summary, said = run(machine, search={"trials": 2, "swaps": 0})
    assert len(said) == 1 and summary.trials == 3
    assert said[0].startswith("target other is there now, but this study was begun without it: it stays left out; ")
    assert f"--store FOLDER/store.db --warm-start {machine.folder / 'store.db'}" in said[0]
    assert all("@other" not in key for trial in trials_of(machine) for key in trial.metrics)
    with pytest.raises(
        TargetUnavailable, match=r"was begun without other, and all_targets insists on it; for one with"
    ):
        run(machine, all_targets=True)
    with pytest.raises(TargetUnavailable, match=r"was begun without other: for one with all targets, begin another"):
        run(machine, targets=("other",))
    again = {**SHORT["search"], "warm_start": [str(machine.folder / "store.db")]}
    config = tiny.config(**{**SHORT, "targets": ("local", "other"), "search": again})
    with Study.open(config, tiny.workload(), store=machine.folder / "new" / "store.db", folder=machine.folder) as both:
        both.run()
        assert is_whole(both.store.trials()) and not both.config.left_out


def test_the_first_target_is_left_out_and_the_next_one_judges(machine: Machine) -> None:
    machine.switch_off(abruptly=False)
    summary, said = run(machine, targets=("other", "local"))
    assert summary.trials == 2 and "answers and sizes without @target are those of local" in said[1]
    assert {each.target for trial in trials_of(machine) for each in trial.evaluations} == {"local"}


def test_a_runtime_that_segfaults_on_the_model_is_left_out(machine: Machine) -> None:
    (machine.folder / "crashes.py").write_text(CRASHES)
    (machine.folder / "other.toml").write_text(RUNNER.format(python=sys.executable, folder=machine.folder))
    summary, said = run(machine)
    assert summary.trials == 2 and len(said) == 2
    assert said[0].startswith("target other is LEFT OUT of this study: ") and "SIGSEGV" in said[0]
    with study(machine, targets=("other",)) as alone, pytest.raises((TargetUnavailable, DeviceFailure)):
        alone.run()


def test_check_says_what_would_be_left_out_and_decides_nothing(machine: Machine) -> None:
    machine.switch_off(abruptly=False)
    with study(machine) as opened:
        report = opened.check()
    assert [each.target for each in report.left_out] == ["other"] and report.baseline.metrics
    assert list(report.fingerprints) == ["local"]
    with open_store(machine.folder / "store.db", "tiny") as store:
        assert not store.exists()
    machine.switch_on()
    summary, said = run(machine)
    assert summary.trials == 2 and not said and is_whole(trials_of(machine))


def test_what_was_checked_with_all_targets_begins_without_one(machine: Machine) -> None:
    with study(machine) as opened:
        assert not opened.check().left_out
    machine.switch_off()
    summary, said = run(machine)
    assert summary.trials == 2 and said[0].startswith("target other is LEFT OUT of this study: ")


def test_a_study_that_measured_on_a_target_waits_for_it(machine: Machine) -> None:
    run(machine)
    machine.switch_off()
    with study(machine, search={"trials": 2}) as opened, pytest.raises(TargetUnavailable) as caught:
        opened.run()
    assert "study 'tiny' has trials that were measured on other, so it waits for it" in str(caught.value)
    assert [each["target"] for each in recorded(machine).get("left_out", [])] == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"search": {"objectives": ["latency_ratio@other", "size_bytes"]}},
            "its first objective is latency_ratio@other",
        ),
        (
            {"search": {"objectives": ["drop/worst", "latency_ratio@other"]}},
            r"no objective that is a cost is left \(drop/worst\)",
        ),
        ({"all_targets": True}, "all_targets: this study starts when all of its targets are there"),
    ],
)
def test_where_too_little_is_left_it_does_not_begin(machine: Machine, changes: dict[str, Any], why: str) -> None:
    machine.switch_off(abruptly=False)
    with study(machine, **changes) as opened, pytest.raises(TargetUnavailable, match=why):
        opened.run()
    with open_store(machine.folder / "store.db", "tiny") as store:
        assert not store.exists()


def test_nothing_that_can_be_timed_is_no_study(machine: Machine) -> None:
    (machine.folder / "slow.toml").write_text('threads = 1\nprovenance = "emulated"\n')
    machine.switch_off(abruptly=False)
    with (
        study(machine, targets=("other", "slow"), search={"objectives": ["size_bytes"]}) as opened,
        pytest.raises(TargetUnavailable, match="does not go on without it: slow cannot be timed"),
    ):
        opened.run()


def test_a_model_that_no_target_runs_is_the_models_fault(machine: Machine) -> None:
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("Nowhere", ["x"], ["y"], domain="com.example")
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8])] for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([node], "g", *ports),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)],
        ir_version=10,
    )
    onnx.save(model, machine.folder / "model.onnx")
    config = tiny.config(targets=("local", "other"))
    workload = tiny.workload(model=machine.folder / "model.onnx")
    with (
        Study.open(config, workload, store=machine.folder / "s.db", folder=machine.folder) as opened,
        pytest.raises(DataError, match="target local cannot run the original model"),
    ):
        opened.run()
