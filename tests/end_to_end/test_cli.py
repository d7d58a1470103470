"""The command line, as people and scripts use it: the template study really run, resumed, read and exported."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from autotune.cli import main

COMMANDS = ("new", "check", "run", "front", "show", "export", "report", "measure", "compare", "parity", "targets")
QUICK = """
[measure]
min_pairs = 3
max_pairs = 4
block_seconds = 0.01
warmup_seconds = 0.02
max_seconds = 2.0

[remeasure]
phase = "final"
min_pairs = 3
max_pairs = 5
block_seconds = 0.01
warmup_seconds = 0.02
max_seconds = 2.0
"""


HASTY = """
runtime = "onnxruntime"
transport = "local"
threads = 1
options = { quiet_wait = 0.0, quiet_wait_final = 0.0 }
"""  # the shipped profile waits for a quiet machine, which has no place in a test


class Answer(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def autotune(*words: str | Path, folder: Path, code: int = 0, columns: int = 120) -> Answer:
    """Run a command in `folder`, in this process; `code` is the exit code it must have."""
    out, err = io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
        patch.dict(os.environ, {"COLUMNS": str(columns)}),
    ):
        found = main([str(word) for word in words])
    answer = Answer(out.getvalue(), err.getvalue())
    assert found == code, f"{words}: {found}\n{answer.stdout}\n{answer.stderr}"
    assert "Traceback" not in answer.stderr
    return answer


def in_its_own_process(*words: str, folder: Path) -> Answer:
    """The same in a process of its own, as a person starts it."""
    command = [sys.executable, "-m", "autotune.cli", *words]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    return Answer(result.stdout, result.stderr)


def new_study(folder: Path, *, trials: int = 3, more: str = "") -> Path:
    """The template, with less measuring: these tests are about the way, not about the numbers."""
    autotune("new", "tiny", folder=folder)
    study = folder / "tiny"
    text = (study / "study.toml").read_text()
    assert "trials = 12" in text and "count = 2" in text
    text = text.replace("trials = 12", f"trials = {trials}").replace("count = 2", "count = 1")
    (study / "study.toml").write_text(text + QUICK + more)
    (study / "local.toml").write_text(HASTY)  # a study's own profile comes before the shipped one
    task = (study / "task.py").read_text()
    assert "count=1200" in task and "count=2000" in task
    (study / "task.py").write_text(task.replace("count=1200", "count=120").replace("count=2000", "count=150"))
    return study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study `tiny` has been run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    new_study(folder)
    result = in_its_own_process("run", "tiny", folder=folder)
    (folder / "stdout").write_text(result.stdout)
    (folder / "stderr").write_text(result.stderr)
    return folder


def read(folder: Path, *words: str | Path) -> Any:
    """What a reading command prints as JSON."""
    return json.loads(autotune(*words, "--json", folder=folder).stdout)


def rows(folder: Path, query: str) -> list[Any]:
    with sqlite3.connect(folder / "autotune-runs" / "tiny" / "store.db") as connection:
        return connection.execute(query).fetchall()


def test_a_run_ends_with_the_front_and_the_report(finished: Path) -> None:
    out, err = (finished / "stdout").read_text(), (finished / "stderr").read_text()
    # heads of two words may stand on two lines: the columns are as wide as what was measured
    for word in ("trial", "size", "smaller", "latency", "time", "ratio", "worst", "slice", "drop", "verdict"):
        assert word in out
    report = re.search(r"report: (.+)", out)
    assert report is not None and Path(finished, report[1]).read_text().lstrip().startswith("<!")
    assert "running the study's own code: tiny/task.py:workload" in err
    assert re.search(r"search 3/3 .*best: trial \d+", err)  # plain lines where there is no terminal
    assert "Warning" not in err


def test_the_same_command_again_measures_nothing(finished: Path) -> None:
    before = rows(finished, "select count(*) from measurement"), rows(finished, "select count(*) from evaluation")
    autotune("run", "tiny", folder=finished)
    after = rows(finished, "select count(*) from measurement"), rows(finished, "select count(*) from evaluation")
    assert before == after


def test_more_trials_go_on_from_there(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    summary = read(folder, "run", "tiny", "--trials", "4")
    assert summary["trials"] == 5 and not summary["stopped"]  # the baseline is a trial, too
    assert Path(folder, summary["report"]).is_file()
    known = rows(finished, "select number, recipe from trial order by number")
    assert rows(folder, "select number, recipe from trial order by number")[: len(known)] == known


def test_front_as_scripts_read_it(finished: Path) -> None:
    front = read(finished, "front", "tiny")["front"]
    assert front
    for point in front:
        for key in ("size_bytes", "latency_ratio@local", "drop/worst"):
            value = point["metrics"][key]
            assert value["low"] <= value["value"] <= value["high"]
    sizes = [point["metrics"]["size_bytes"]["value"] for point in front]
    assert sizes == sorted(sizes)


def test_front_in_two_keys(finished: Path) -> None:
    front = read(finished, "front", "tiny", "--x", "size_bytes", "--y", "accuracy")["front"]
    points = [(p["metrics"]["size_bytes"]["value"], p["metrics"]["accuracy"]["value"]) for p in front]
    for size, accuracy in points:
        assert not any(s <= size and a >= accuracy and (s, a) != (size, accuracy) for s, a in points)


def test_front_within_limits(finished: Path) -> None:
    limits = ("--max", "size_bytes=60kB", "--min", "accuracy=10%")
    front = read(finished, "front", "tiny", *limits)["front"]
    assert front and all(point["metrics"]["size_bytes"]["value"] <= 60e3 for point in front)


def test_an_impossible_limit_is_explained(finished: Path) -> None:
    result = autotune("front", "tiny", "--max", "size_bytes=1kB", "--json", folder=finished, code=3)
    answer = json.loads(result.stdout)
    assert answer["front"] == []
    reason = answer["infeasible"]
    assert reason["constraint"] == "size_bytes" and reason["missing_by"] > 0
    assert reason["nearest"]["metrics"]["size_bytes"]["value"] == pytest.approx(1000 + reason["missing_by"])
    assert result.stderr.count("\n") == 1 and "size_bytes" in result.stderr


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(finished: Path, columns: int) -> None:
    for words in (("front", "tiny"), ("show", "tiny", "1"), ("show", "tiny", "0")):
        out = autotune(*words, folder=finished, columns=columns).stdout
        table = [line for line in out.splitlines() if not line.startswith(("  ", "make it again", "report"))]
        assert max(map(len, table)) <= columns
        assert "…" not in out


def test_show_tells_everything(finished: Path) -> None:
    trial = read(finished, "show", "tiny", "1")
    assert trial["state"] == "complete" and trial["recipe"]["quantize"]
    assert {layer["layer"] for layer in trial["layers"]} == {"layer0", "layer1", "layer2"}
    assert trial["measurements"] and trial["evaluations"][0]["outcomes"]
    assert trial["command"] == "autotune export tiny 1 trial-1"
    text = autotune("show", "tiny", "1", folder=finished).stdout
    for word in ("paper=dirty", "layer0", "sha256", "make it again: autotune export tiny 1 trial-1"):
        assert word in text


def test_export_writes_what_was_measured(finished: Path, tmp_path: Path) -> None:
    answer = read(finished, "export", "tiny", "best", tmp_path / "bundle")
    bundle = tmp_path / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert {file.name for file in bundle.iterdir()} == {*manifest["files"], "manifest.json"}
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == facts["sha256"]
    trial = read(finished, "show", "tiny", str(answer["trial"]))
    assert manifest["files"]["model.onnx"]["sha256"] == trial["artifact"]["digest"]
    assert trial["final"] and manifest["metrics"]["final"] == trial["final"]
    assert any(measurement["model"] == trial["artifact"]["digest"] for measurement in trial["measurements"])
    # The snippet needs nothing but onnxruntime and numpy, and nothing of ours.
    ran = subprocess.run(
        [sys.executable, "-I", bundle / "infer.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "scores float32 (1, 10)" in ran.stdout


def test_export_takes_a_number_and_replaces_only_bundles(finished: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    autotune("export", "tiny", "1", bundle, folder=finished)
    autotune("export", "tiny", "0", bundle, folder=finished)
    assert json.loads((bundle / "manifest.json").read_text())["trial"] == 0
    (bundle / "notes.txt").write_text("mine")
    refused = autotune("export", "tiny", "1", bundle, folder=finished, code=2)
    assert "not empty and not a bundle" in refused.stderr
    assert (bundle / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_report_is_one_file(finished: Path, tmp_path: Path) -> None:
    path = Path(read(finished, "report", "tiny", "--output", tmp_path / "r.html")["report"])
    text = path.read_text()
    assert "paper=dirty" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?:", text)


def test_check_spends_nothing_but_the_baseline(tmp_path: Path) -> None:
    new_study(tmp_path)
    answer = read(tmp_path, "check", "tiny")
    assert answer["study"] == "tiny" and answer["space_log10"] > 1 and answer["seconds_per_trial"] > 0
    assert [layer["op"] for layer in answer["layers"]] == ["Gemm"] * 3
    assert rows(tmp_path, "select number, state from trial") == [(0, "complete")]
    assert "the study is in order" in autotune("check", "tiny", folder=tmp_path).stdout


def test_measure_needs_no_study(finished: Path, tmp_path: Path) -> None:
    original, small = finished / "tiny" / "model.onnx", tmp_path / "bundle"
    autotune("export", "tiny", "1", small, folder=finished)
    words = ("measure", small / "model.onnx", "--against", original, "--target", "local", "--seconds", "0.5")
    answer = read(tmp_path, *words)
    ratio = answer["ratio"]["estimate"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert answer["latency"]["median"]["value"] > 0 and answer["baseline_latency"]["median"]["value"] > 0
    assert answer["memory"]["peak"] > 0 and answer["quality"] and answer["fingerprint"]["cores"] >= 1
    assert answer["model"] == hashlib.sha256((small / "model.onnx").read_bytes()).hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_targets(tmp_path: Path) -> None:
    assert "local" in [target["name"] for target in read(tmp_path, "targets", "list")["targets"]]
    assert read(tmp_path, "targets", "show", "local")["runtime"] == "onnxruntime"
    assert read(tmp_path, "targets", "probe", "local")["cores"] >= 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, tmp_path: Path) -> None:
    assert "Example: autotune " in autotune(command, "--help", folder=tmp_path).stdout


def stopped(folder: Path, *, signals: int) -> tuple[int, str]:
    """Start a run, interrupt it in its search, and return its exit code and what it said."""
    command = [sys.executable, "-m", "autotune.cli", "run", "tiny", "--trials", "40"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("search 2/"):
            break
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # two signals that arrive together are one
    _, rest = process.communicate(timeout=120)
    return process.returncode, "".join(said) + rest


def test_ctrl_c_stops_cleanly_and_the_run_goes_on(tmp_path: Path) -> None:
    new_study(tmp_path)
    code, said = stopped(tmp_path, signals=1)
    assert code == 130, said
    assert "Traceback" not in said and "the same command goes on from here" in said
    finished = rows(tmp_path, "select number, recipe from trial where state = 'complete' order by number")
    assert len(finished) >= 2
    autotune("run", "tiny", folder=tmp_path)
    again = rows(tmp_path, "select number, recipe from trial where state = 'complete' order by number")
    assert again[: len(finished)] == finished
    assert rows(tmp_path, "select count(*) from trial where state = 'running'") == [(0,)]


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    new_study(tmp_path)
    code, said = stopped(tmp_path, signals=2)
    assert code == 130, said
    assert "Traceback" not in said


def test_constraints_that_nothing_meets_end_with_3(tmp_path: Path) -> None:
    new_study(tmp_path, trials=2, more='\n[constraints]\nsize_bytes = "1kB"\n')
    result = autotune("run", "tiny", folder=tmp_path, code=3)
    assert "the smallest possible model is" in result.stderr.splitlines()[-1]
    assert "size_bytes 1 kB cannot be met" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_study_digits_runs_by_name(tmp_path: Path) -> None:
    summary = read(tmp_path, "run", "digits", "--trials", "1")
    assert summary["trials"] == 2 and summary["front"]
    assert (tmp_path / "autotune-runs" / "digits" / "store.db").is_file()
    assert read(tmp_path, "front", "digits")["front"] == summary["front"]
