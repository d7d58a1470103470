"""`autotune compare` and `autotune measure`, as they are typed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.cli import main

SCENARIO = """\
warmup_seconds = 0.0
warmup_iterations = 3
block_seconds = 0.002
block_iterations = 5
min_pairs = 20
max_pairs = 20
precision = 0.5
max_seconds = 10.0
memory_runs = 1
"""
PROFILE = "options = { quiet_wait = 0.0, quiet_wait_final = 0.0 }\n"


def save(path: Path, width: int, op: str = "Relu") -> None:
    """y = op(x @ w), x of shape [batch, n]."""
    weight = np.random.default_rng(0).normal(size=(32, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node(op, ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def folder(own_folders: Path) -> Path:
    """Two models, one that answers NaN, a hasty scenario and three targets, one of them not there."""
    save(own_folders / "big.onnx", 16384)  # a hundred times the work, so that noise cannot hide it
    save(own_folders / "small.onnx", 8)
    save(own_folders / "nan.onnx", 8, op="Sqrt")
    (own_folders / "hasty.toml").write_text(SCENARIO)
    targets = own_folders / "targets"
    targets.mkdir()
    (targets / "here.toml").write_text(PROFILE)
    (targets / "twin.toml").write_text(f"threads = 2\n{PROFILE}")
    (targets / "gone.toml").write_text(f"python = '/no/such/python'\n{PROFILE}")
    return own_folders


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    given = [*words, "--folder", "targets", "--scenario", "hasty.toml"]
    assert main(given) == code, capsys.readouterr().err
    found = capsys.readouterr()
    return found.out, found.err


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    assert main([*words, "--folder", "targets"]) == code
    found = capsys.readouterr()
    lines = [line for line in found.err.splitlines() if line.startswith("autotune:")]
    assert len(lines) == 1 and not found.out and "Traceback" not in found.err
    return lines[0]


def test_compare_as_scripts_read_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(
        capsys, "compare", "big.onnx", "small.onnx", "--targets", "here", "twin", "--price", "here=0.36", "--json"
    )
    answer: dict[str, Any] = json.loads(out)
    assert [(row["model"], row["target"]) for row in answer["rows"]] == [
        ("big.onnx", "here"), ("small.onnx", "here"), ("big.onnx", "twin"), ("small.onnx", "twin"),
    ]  # fmt: skip
    by_target = {(r["metric"], r["target"]): r for r in answer["rankings"] if r["target"]}
    ranking = by_target["latency", "here"]
    assert ranking["order"][0]["model"] == "small.onnx" and ranking["pairings"][0]["verdict"] == "less"
    row = answer["rows"][1]
    median = row["measurement"]["latency"]["median"]["value"]
    assert row["cost"][""]["value"] == pytest.approx(100 * median) and not answer["rows"][2]["cost"]
    assert "compare 4/4" in err and "left" in err


@pytest.mark.parametrize("columns", [80, 120])
def test_compare_on_a_screen(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out, _ = run(
        capsys, "compare", "big.onnx", "small.onnx", "--target", "here", "--target", "gone", "--price", "here=1",
        "--currency", "EUR", code=3,
    )  # fmt: skip
    assert max(map(len, out.splitlines())) <= columns
    assert re.search(r"^ \*!? +small\.onnx", out, re.M) and "EUR" in out and "±" in out
    words = " ".join(out.split())
    assert "here: small.onnx is fastest; big.onnx takes" in words and "cost: small.onnx on here is cheapest" in words
    assert "not measured: big.onnx, small.onnx: target unavailable: target 'gone'" in words


def test_compare_writes_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "big.onnx", "small.onnx", "--target", "here", "--shape", "x=1,32", "--shape", "x=4,32")
    run(capsys, *words, "--output", "deep/page.html")
    page = (folder / "deep" / "page.html").read_text()
    assert "small.onnx" in page and "shape 4x32" in page and 'id="chart-latency"' in page


def test_six_pairs_name_no_winner(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("hasty.toml").write_text(SCENARIO.replace("_pairs = 20", "_pairs = 6"))
    words = ("compare", "big.onnx", "small.onnx", "--target", "here")
    answer = json.loads(run(capsys, *words, "--json")[0])
    (pair,) = next(r for r in answer["rankings"] if r["metric"] == "latency")["pairings"]
    assert pair["verdict"] == "undecided" and pair["more_pairs"] >= 14
    said = " ".join(run(capsys, "measure", "small.onnx", "--against", "big.onnx", "--target", "here")[0].split())
    assert "not enough data, too few pairs for a decision" in said and "faster" not in said


def test_the_same_file_twice_shows_how_equal_equal_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "compare", "big.onnx", "big.onnx", "--target", "here", "--json")
    assert [row["model"] for row in json.loads(out)["rows"]] == ["big.onnx", "big.onnx (2)"]


def test_measure_says_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "measure", "small.onnx", "--against", "big.onnx", "--targets", "here", "twin", "--batch", "4")
    words = " ".join(out.split())
    for fact in ("time", "p90", "p99", "throughput", "items per second", "CPU time", "load", "first",
                 "cold start", "memory", "energy", "ratio", "small.onnx is faster than big.onnx", "batch 4",
                 "quality", "here: ", "twin: "):  # fmt: skip
        assert fact in words, fact


def test_measure_per_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(
        capsys, "measure", "small.onnx", "--target", "here", "--shape", "x=1,32", "--shape", "x=16,32", "--json"
    )
    shapes = json.loads(out)["by_shape"]
    assert [shape["label"] for shape in shapes] == ["1x32", "16x32"]
    first, second = (shape["latency"] for shape in shapes)
    assert second["throughput"] > first["throughput"]  # sixteen items cost less than sixteen times one


def test_measure_goes_on_after_a_target_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "measure", "small.onnx", "--targets", "gone", "here", "--json", code=69)
    assert [record["target"] for record in json.loads(out)["measurements"]] == ["here"]
    assert "/no/such/python" in err


def test_nan_is_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "measure", "nan.onnx", "--target", "here", code=65)
    assert "nan.onnx" in line and "'y' is NaN in" in line and "here" in line
    out, _ = run(capsys, "compare", "big.onnx", "nan.onnx", "--target", "here", "--output", "page.html", code=3)
    assert "not measured: nan.onnx" in out and (folder / "page.html").is_file()
    assert "nan.onnx" in refused(capsys, "compare", "nan.onnx", "--target", "here", "--scenario", "hasty.toml", code=65)


def test_errors_name_the_users_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is sound ONNX, so only the runtime finds out."""
    model = onnx.load("small.onnx")
    model.graph.node[1].op_type = "NoSuchOperator"
    Path("odd.onnx").write_bytes(model.SerializeToString())
    line = refused(capsys, "measure", "odd.onnx", "--target", "here", code=65)
    assert "odd.onnx" in line and "NoSuchOperator" in line and "blobs" not in line
    assert not re.search(r"[0-9a-f]{64}", line)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("compare",), "MODEL"),
        (("compare", "big.onnx", "--targets"), "name at least one target"),
        (("compare", "big.onnx", "--targets", "here", "here"), "named twice"),
        (("compare", "big.onnx", "--target", "hare"), "did you mean 'here'"),
        (("compare", "big.onnx", "--target", "here", "--price", "here"), "TARGET=PRICE"),
        (("compare", "big.onnx", "--target", "here", "--price", "hree=1"), "did you mean 'here'"),
        (("compare", "big.onnx", "--target", "here", "--price", "here=-1"), "positive number"),
        (("compare", "big.onnx", "--target", "here", "--price", "here=nan"), "positive number"),
        (("compare", "big.onnx", "--target", "here", "--price", "here=1", "--price", "here=2"), "already"),
        (("compare", "big.onnx", "--target", "here", "--scenario", "quik"), "did you mean 'quick'"),
        (("compare", "big.onnx", "--target", "here", "--scenario", "bad.toml"), "bad.toml:2: unknown key 'min_pair'"),
        (("compare", "big.onnx", "--target", "here", "--output", "targets"), "is a folder"),
        (("measure", "big.onnx", "--target", "here", "--batch", "0"), "--batch"),
        (("measure", "big.onnx", "--target", "here", "--runner", "no-such-runner"), "no-such-runner"),
    ],
)
def test_what_is_typed_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], hint: str
) -> None:
    Path("bad.toml").write_text("# mine\nmin_pair = 3\n")
    assert hint in refused(capsys, *words, code=2)


def test_models_must_take_the_same_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("small.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    Path("other.onnx").write_bytes(model.SerializeToString())
    line = refused(capsys, "compare", "big.onnx", "other.onnx", "--target", "here", code=65)
    assert "x float32[1, 32]" in line and "image float32[1, 32]" in line


def test_nothing_could_be_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/no/such/python" in refused(capsys, "compare", "big.onnx", "small.onnx", "--target", "gone", code=69)


@pytest.mark.slow
def test_a_native_runner_measures_instead(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hwprofiles.runtimes import reference_runner

    runner = Path(shutil.copy(reference_runner.__file__, folder / "mine.py"))
    Path("hasty.toml").write_text(
        "min_pairs = 3\nmax_pairs = 3\nblock_seconds = 0.001\nprecision = 0.5\nmemory_runs = 0\n"
    )
    out, _ = run(
        capsys, "measure", "small.onnx", "--target", "here", "--runner", str(runner), "--energy", "0", "--json"
    )
    answer = json.loads(out)
    assert answer["latency"]["median"]["value"] > 0 and answer["scenario"]["energy_seconds"] == 0


@pytest.mark.parametrize("command", ["measure", "compare"])
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Example: autotune " in out
    assert command == "measure" or "with 3 (inconclusive)" in out


def test_what_a_runner_measured_is_labelled(folder: Path) -> None:
    from autotune.cli.setting import read_setting

    Path("mine.py").write_text("")
    setting = read_setting(
        [Path("small.onnx")], targets=["here"], folders=[Path("targets")], scenario="quick", seconds=None, energy=None,
        shapes=[], batch=None, inputs=None, runner=Path("mine.py"), say=lambda _: None,
    )  # fmt: skip
    (target,) = setting.targets
    assert (
        target.runtime == "runner"
        and Path(str(target.options["runner"])).name == "mine.py"
        and target.label == "runner mine.py"
    )


def test_samples_of_the_users_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("mine.npz", x=np.ones((3, 4, 32), np.float32))  # three samples, each a batch of four
    out, _ = run(capsys, "measure", "small.onnx", "--targets", "here", "--inputs", "mine.npz", "--json")
    assert json.loads(out)["conditions"]["batch"] == 4
    said = refused(capsys, "compare", "small.onnx", "--targets", "here", "--inputs", "mine.npz", "--batch", "2", code=2)
    assert "the samples have their shape and batch" in said
    np.savez("narrow.npz", x=np.ones((3, 31), np.float32))
    said = refused(capsys, "measure", "small.onnx", "--targets", "here", "--inputs", "narrow.npz", code=65)
    assert "'x' is float32[1, 31] for each sample, small.onnx takes float32[batch, 32]" in said
