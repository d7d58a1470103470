"""`autotune parity` as people use it: real devices of this machine, files, a study's trial, pages and exit codes."""

from __future__ import annotations

import io
import json
import os
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import onnx
import pytest

from autotune.cli import main
from autotune.parity.report import ParityReport
from tests.unit import zoo
from tests.unit.parity.test_check import float_between_quantised

TARGETS = {
    "here": "options = { quiet_wait = 0.0, quiet_wait_final = 0.0 }\n",
    "two": "threads = 2\noptions = { quiet_wait = 0.0, quiet_wait_final = 0.0 }\n",
    "absent": 'python = "/nowhere/python3"\n',
}
STUDY = """
[measure]
min_pairs = 3
max_pairs = 3
block_seconds = 0.005
warmup_seconds = 0.01
max_seconds = 1.0

[remeasure]
phase = "final"
min_pairs = 3
max_pairs = 3
block_seconds = 0.005
warmup_seconds = 0.01
max_seconds = 1.0
"""


class Answer(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def folder(tmp_path: Path, own_folders: Path) -> Path:
    """A folder with models and, in the user's configuration, targets."""
    place = Path(os.environ["XDG_CONFIG_HOME"]) / "hw-autotune" / "targets"
    place.mkdir(parents=True)
    for name, text in TARGETS.items():
        (place / f"{name}.toml").write_text(text)
    models = {"cnn": zoo.conv_residual(), "attention": zoo.attention(), "trap": float_between_quantised()}
    for name, model in models.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    return tmp_path


def autotune(*words: str | Path, folder: Path, code: int = 0) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, {"COLUMNS": "140"}):
        found = main([str(word) for word in words])
    answer = Answer(out.getvalue(), err.getvalue())
    assert found == code, f"{words}: {found}\n{answer.stdout}\n{answer.stderr}"
    assert "Traceback" not in answer.stderr
    return answer


def report(*words: str | Path, folder: Path, code: int = 0) -> ParityReport:
    return ParityReport.model_validate_json(autotune("parity", *words, "--json", folder=folder, code=code).stdout)


def test_targets_that_agree(folder: Path) -> None:
    words = ("parity", "cnn.onnx", "--targets", "here", "two", "--samples", "5", "--output", "page.html")
    answer = autotune(*words, folder=folder)
    assert "cnn.onnx: 5 samples, against float64" in answer.stdout and "5 of 5" in answer.stdout
    assert "Answers agree on here and two" in answer.stdout and "no layer diverges" in answer.stdout
    assert "page: page.html" in answer.stderr
    assert "the same answers" in (folder / "page.html").read_text()


def test_a_target_that_disagrees_ends_with_1_and_names_the_layer(folder: Path) -> None:
    answer = autotune("parity", "trap.onnx", "--targets", "here", folder=folder, code=1)
    assert "first layer that diverges: Conv conv (operator)" in answer.stdout
    assert "Answers differ from the float64 reference on here" in answer.stdout
    assert report("trap.onnx", "--targets", "here", "--tolerance", "0.5", folder=folder).agrees is True


def test_a_target_that_is_not_there_leaves_it_open(folder: Path) -> None:
    found = report("cnn.onnx", "--targets", "here", "absent", folder=folder, code=3)
    assert found.agrees is None and [t.verdict for t in found.targets] == ["agree", "not compared"]
    answer = autotune("parity", "cnn.onnx", "--targets", "absent", folder=folder, code=69)
    assert "was compared nowhere" in answer.stderr and answer.stderr.count("autotune: ") == 1


def test_samples_of_a_file(folder: Path) -> None:
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(6, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "rows.npz", x=batches)  # samples along the batch
    np.savez(folder / "whole.npz", x=batches[:, None])  # each sample with a batch of its own
    one = report("cnn.onnx", "--targets", "here", "--inputs", "rows.npz", folder=folder)
    other = report("cnn.onnx", "--targets", "here", "--inputs", "whole.npz", folder=folder)
    assert one == other and one.samples == 6
    assert report("cnn.onnx", "--targets", "here", "--inputs", "rows.npz", "--samples", "2", folder=folder).samples == 2


def test_shapes_of_dynamic_inputs(folder: Path) -> None:
    autotune("parity", "attention.onnx", "--targets", "here", folder=folder, code=2)
    found = report("attention.onnx", "--targets", "here", "--shape", "x=2,5,16", "--samples", "2", folder=folder)
    assert found.agrees is True and found.targets[0].outputs[0].kind == "numbers"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((2, 3, 8, 8), np.float32)}, "rename the arrays"),
        ({"x": np.float32(1.0)}, "give all inputs the same number"),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, "not 0"),
        ({"x": np.array([{}], dtype=object)}, "plain arrays"),
        (None, "plain arrays"),
    ],
)
def test_files_that_are_no_samples(folder: Path, arrays: dict[str, Any] | None, message: str) -> None:
    if arrays is None:
        (folder / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    else:
        np.savez(folder / "bad.npz", allow_pickle=True, **arrays)
    answer = autotune("parity", "cnn.onnx", "--targets", "here", "--inputs", "bad.npz", folder=folder, code=65)
    assert message in answer.stderr and "bad.npz" in answer.stderr


def test_inputs_the_model_does_not_take_are_named(folder: Path) -> None:
    np.savez(folder / "small.npz", x=np.zeros((2, 3, 4), np.float32))
    answer = autotune("parity", "cnn.onnx", "--targets", "here", "--inputs", "small.npz", folder=folder, code=65)
    assert "'x' is float32[1, 3, 4] for each sample, cnn.onnx takes float32[" in answer.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cnn.onnx", "--targets", "hre"), "unknown target 'hre'"),
        (("cnn.onnx", "--targets", "here", "here"), "named twice"),
        (("cnn.onnx", "--inputs", "a.npz", "--shape", "x=1,3,8,8"), "leave --shape out"),
        (("cnn.onnx", "--targets", "here", "--output", "."), "is a folder"),
        (("no-such-study:3",), "no-such-study"),
    ],
)
def test_what_is_typed_wrong_is_said_before_anything_starts(folder: Path, words: tuple[str, ...], message: str) -> None:
    answer = autotune("parity", *words, folder=folder, code=2)
    assert message in answer.stderr and len(answer.stderr.strip().splitlines()) <= 2


def test_no_model(folder: Path) -> None:
    (folder / "text.onnx").write_text("not a model at all")
    for name in ("text.onnx", "missing.onnx"):
        answer = autotune("parity", name, "--targets", "here", folder=folder, code=65)
        assert name in answer.stderr


@pytest.mark.slow
def test_a_trial_of_a_study_on_its_held_out_data(folder: Path) -> None:
    autotune("new", "tiny", folder=folder)
    study = folder / "tiny"
    text = (study / "study.toml").read_text().replace("trials = 12", "trials = 1").replace("count = 2", "count = 1")
    (study / "study.toml").write_text(text + STUDY)
    (study / "local.toml").write_text(TARGETS["here"])
    task = (study / "task.py").read_text()
    (study / "task.py").write_text(task.replace("count=1200", "count=60").replace("count=2000", "count=80"))
    autotune("run", "tiny", folder=folder)
    found = report("tiny:0", "--samples", "7", folder=folder)
    assert found.agrees is True and found.samples == 7 and [t.target for t in found.targets] == ["local"]
    shown = json.loads(autotune("show", "tiny", "0", "--json", folder=folder).stdout)
    assert shown["artifact"]["digest"] == found.model
    autotune("parity", "tiny:99", folder=folder, code=2)
