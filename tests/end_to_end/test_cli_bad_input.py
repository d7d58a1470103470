"""Bad input: one line on stderr that says what, where and what to do, the right exit code, nothing half-written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.cli import main
from autotune.store import open_store

STUDY = """\
name = "small"
targets = ["local"]

[search]
objectives = ["size_bytes", "drop/worst"]
trials = 2

[finalists]
count = 0

[measure]
min_pairs = 3
max_pairs = 3
block_seconds = 0.01
warmup_seconds = 0.0
"""

PROFILE = "runtime = 'onnxruntime'\ntransport = 'local'\noptions = { quiet_wait = 0.0, quiet_wait_final = 0.0 }\n"

TASK = """\
from pathlib import Path
import numpy as np
from autotune import Dataset, Sample, Workload

def samples(seed, n):
    rng = np.random.default_rng(seed)
    inputs = [{"x": rng.normal(size=(1, 32)).astype("float32")} for _ in range(n)]
    labels = [int(sum(a.sum() for a in x.values()) > 0) for x in inputs]
    return [Sample(f"{seed}-{i}", x, labels[i], {"even": i % 2}) for i, x in enumerate(inputs)]

def decode(outputs):
    return [int(row.argmax()) for row in outputs["y"]]

def workload():
    return Workload(
        model=Path(__file__).with_name("model.onnx"),
        search=Dataset("search", samples(0, 40)),
        heldout=Dataset("heldout", samples(1, 40)),
        calibration=[s.inputs for s in samples(2, 8)],
        decode=decode,
        slices=("even",),
    )
"""


def model(scale: float = 1.0) -> onnx.ModelProto:
    """x [batch, 32] -> y [batch, 2], one Gemm."""
    weight = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32) * np.float32(scale)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def study(own_folders: Path) -> Path:
    """A study that would run, in the current folder."""
    folder = own_folders / "small"
    folder.mkdir()
    (folder / "study.toml").write_text(STUDY)
    (folder / "task.py").write_text(TASK)
    (folder / "local.toml").write_text(PROFILE)
    onnx.save(model(), folder / "model.onnx")
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    """Run a command that must fail with `code`; returns its last line, the only one about the error."""
    before = tree()
    assert main(list(words)) == code
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("autotune: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert lines[0].isprintable()
    if words[0] not in ("run", "check"):
        assert tree() == before
    return lines[0]


def tree() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("frnt", "small"), "front"),
        (("run",), "STUDY"),
        (("run", "smal"), "neither a folder nor a ready-made study"),
        (("run", "digit"), "did you mean 'digits'"),
        (("run", "small", "--trials", "0"), "at least one trial"),
        (("run", "small", "--trials", "many"), "--trials"),
        (("run", "small", "--hours", "-1"), "positive"),
        (("run", "small", "--hours", "nan"), "positive"),
        (("run", "small", "--target", "loca"), "did you mean 'local'"),
        (("check", "small", "--target", "-oProxyCommand=x"), "unknown target"),
        (("run", "small", "--store", "mysqll://a:geheim@h/x"), "mysqll"),
        (("measure", "small/model.onnx", "--target", "moon"), "unknown target 'moon'"),
        (("measure", "small/model.onnx", "--shape", "x=1,a"), "positive whole numbers"),
        (("measure", "small/model.onnx", "--shape", "z=1,32"), "no input 'z'"),
        (("measure", "small/model.onnx", "--shape", "x=1,31"), "does not fit"),
        (("targets", "show", "locall"), "did you mean 'local'"),
        (("new", "small"), "is there already"),
        (("new", "a b"), "cannot name a study"),
        (("new", "small/study.toml"), "is a file"),
        (("export", "small", "best", "small"), "not empty and not a bundle"),
        (("export", "small", "best", "small/task.py"), "not a folder"),
        (("front", "../etc/passwd"), "neither a folder"),
        (("front", "a\nb"), "neither a folder"),
    ],
)
def test_what_is_typed_wrong(
    study: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], hint: str
) -> None:
    line = refused(capsys, *words, code=2)
    assert hint in line
    assert "geheim" not in line
    assert not Path("autotune-runs").exists()


@pytest.mark.parametrize(
    ("command", "table", "expected"),
    [
        ("check", 'exclude = ["fc", "fcc*"]', "3: exclude: pattern 'fcc*' matches no layer of the model; did you mean"),
        (
            "run",
            '[[groups]]\nname = "ends"\nlayers = ["head.*"]',
            "5: groups[0].layers: group 'ends': pattern 'head.*' matches no layer of the model; known: fc",
        ),
        ("check", "[techniques.factorize]\nranks = [0.5, 1.5]", "4: techniques.factorize.ranks: has 1.5; give"),
        ("check", "[techniques.prune]\nshares = [-0.25]", "4: techniques.prune.shares: has -0.25; give"),
        ("check", "[techniques.sparsify]\nshares = [1]", "4: techniques.sparsify.shares: has 1; give"),
        ("check", '[techniques.sparsify]\npatterns = ["4:2"]', "4: techniques.sparsify.patterns: has '4:2'; give N:M"),
        ("check", "[techniques.factorize]\nranks = 0.5", "4: techniques.factorize.ranks: is 0.5; give a list"),
    ],
)
def test_what_a_technique_cannot_do(
    study: Path, capsys: pytest.CaptureFixture[str], command: str, table: str, expected: str
) -> None:
    file = study / "study.toml"
    file.write_text(STUDY.replace('targets = ["local"]\n', f'targets = ["local"]\n{table}\n', 1))
    assert f"study.toml:{expected}" in refused(capsys, command, "small", code=2)


@pytest.mark.parametrize("command", ["front", "report", "show"])
def test_reading_before_the_first_run(study: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    words = (command, "small", "0") if command == "show" else (command, "small")
    assert "run" in refused(capsys, *words, code=65)
    assert not Path("autotune-runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("trials = 2", "trails = 2", "study.toml:6: search.trails: unknown key; did you mean 'trials'"),
        ("trials = 2", "trials = ", "study.toml:6: not valid TOML"),
        ("trials = 2", 'trials = 2\nsampler = "tpee"', "study.toml:7: search.sampler: unknown sampler 'tpee'"),
        ("count = 0", "count = 0\n[techniques.quantise]", "study.toml:10: techniques.quantise: unknown technique"),
        (
            "count = 0",
            'count = 0\n[techniques.quantize]\nchoices = ["int9"]',
            "study.toml:11: techniques.quantize.choices: has no choice",
        ),
        ('"drop/worst"', '"dorp/worst"', "study.toml:5: search.objectives[1]: "),
        ('["local"]', '["locale"]', "study.toml:2: targets[0]: unknown target 'locale'; did you mean 'local'"),
    ],
)
def test_a_study_file_with_a_mistake(
    study: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, hint: str
) -> None:
    assert STUDY.count(old) == 1
    (study / "study.toml").write_text(STUDY.replace(old, new))
    assert hint in refused(capsys, "run", "small", code=2)
    assert not Path("autotune-runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "code", "hint"),
    [
        ("    return Workload(", "    1 / 0\n    return Workload(", 65, "task.py:15: in workload: ZeroDivisionError"),
        ('with_name("model.onnx")', 'with_name("other.onnx")', 65, "other.onnx: there is no such file"),
        ("samples(0, 40)", "[]", 65, "'search' is empty"),
        ("size=(1, 32)", "size=(1, 31)", 65, "31"),
        ('{"x": rng', '{"z": rng', 65, "z"),
        ('.astype("float32")', "", 65, "x"),
        ('slices=("even",)', 'slices=("odd",)', 65, "odd"),
        ('slices=("even",)', 'slices=("even=7",)', 65, "even"),
        ('slices=("even",)', 'metric="acuracy"', 2, "did you mean 'accuracy'"),
        ("decode=decode", "decode=lambda outputs: outputs['no such output']", 65, "no such output"),
        ("decode=decode", "decode=lambda outputs: [1, 2, 3]", 65, "3"),
    ],
)
def test_a_task_that_does_not_fit(
    study: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, code: int, hint: str
) -> None:
    assert TASK.count(old) == 1
    (study / "task.py").write_text(TASK.replace(old, new))
    assert hint in refused(capsys, "run", "small", code=code)


def test_a_metric_that_raises(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = TASK.replace('slices=("even",)', "metric=broken")
    (study / "task.py").write_text(task + "\ndef broken(predictions, labels):\n    raise KeyError('no such label')\n")
    line = refused(capsys, "run", "small", code=65)
    assert "no such label" in line and "broken" in line


def test_nan_from_the_model(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(scale=float("nan")), study / "model.onnx")
    assert "nan" in refused(capsys, "run", "small", code=65).lower()


WHOLE = model().SerializeToString()
EXTERNAL = model()
EXTERNAL.graph.initializer[0].ClearField("raw_data")
EXTERNAL.graph.initializer[0].data_location = TensorProto.EXTERNAL
EXTERNAL.graph.initializer[0].external_data.add(key="location", value="../secret")
WRONG_RANK = model()
WRONG_RANK.graph.initializer[0].dims[:] = [64]
UNKNOWN_OP = model()
UNKNOWN_OP.graph.node[0].op_type = "NoSuchOperator"
HUGE = model()
HUGE.graph.initializer[0].dims[:] = [2**40, 2**40]
NO_INPUT_SHAPE = model()
NO_INPUT_SHAPE.graph.input[0].type.tensor_type.ClearField("shape")

BROKEN: dict[str, bytes] = {
    "empty": b"",
    "cut-in-half": WHOLE[: len(WHOLE) // 2],
    "last-byte-missing": WHOLE[:-1],
    "random": np.random.default_rng(0).bytes(4096),
    "text": b"not a model at all\n",
    "ort-format": b"\0\0\0\0ORTM" + bytes(64),
    "zip": b"PK\x03\x04" + bytes(64),
    "no-graph": onnx.ModelProto(ir_version=8).SerializeToString(),
    "wrong-rank": WRONG_RANK.SerializeToString(),
    "unknown-operator": UNKNOWN_OP.SerializeToString(),
    "external-outside": EXTERNAL.SerializeToString(),
    "huge-dims": HUGE.SerializeToString(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_measure_refuses_a_broken_file(own_folders: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    Path("model.onnx").write_bytes(BROKEN[name])
    assert "model.onnx" in refused(capsys, "measure", "model.onnx", code=65)


@pytest.mark.parametrize("name", BROKEN)
def test_a_study_with_a_broken_model(study: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (study / "model.onnx").write_bytes(BROKEN[name])
    line = refused(capsys, "check", "small", code=65)
    assert "model.onnx" in line or "(fc)" in line  # the file, or the node that the runtime refused


def test_measure_refuses_what_is_no_file(own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    for path, hint in (
        ("pipe", "not a regular file"),
        (".", "folder"),
        ("none", "no such file"),
        ("/dev/zero", "regular"),
    ):
        assert hint in refused(capsys, "measure", path, code=65)


def test_measure_asks_for_shapes_it_cannot_know(own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(NO_INPUT_SHAPE, "model.onnx")
    assert "--shape x=" in refused(capsys, "measure", "model.onnx", code=2)


def test_names_in_a_model_do_not_steer_the_terminal(own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = model()
    bad.graph.input[0].name = "x\x1b[2J\u202e"
    bad.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    Path("model.onnx").write_bytes(bad.SerializeToString())
    refused(capsys, "measure", "model.onnx", code=2)


@pytest.mark.parametrize(
    "content", [b"this is not a database, but it is long enough to look at" * 20, b"SQLite format 3\0" + bytes(200)]
)
def test_a_store_that_is_not_ours(study: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    Path("store.db").write_bytes(content)
    for command in ("run", "front"):
        assert "store.db" in refused(capsys, command, "small", "--store", "store.db", code=65)
    assert Path("store.db").read_bytes() == content


def test_a_store_where_nothing_can_be_written(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("in the way")
    refused(capsys, "run", "small", "--store", "file/store.db", code=74)
    assert Path("file").read_text() == "in the way"


def test_a_study_that_another_run_holds(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(None, "small") as store, store.lock():
        assert str(os.getpid()) in refused(capsys, "run", "small", code=75)


def run_limited(words: list[str], limit: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autotune.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=limit)


def test_no_space_left(study: Path) -> None:
    """A file-size limit makes every larger write fail, as a full disk does."""
    limit = 100_000
    ran = run_limited(["run", "small"], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert ran.returncode == 74, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("autotune: ")


def test_output_into_a_closed_pipe_is_quiet(study: Path) -> None:
    command = f"{sys.executable} -m autotune.cli targets list --json | true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""


def test_a_bug_of_ours_is_one_line_and_debug_shows_the_traceback(study: Path) -> None:
    code = (
        "import sys, autotune.config, autotune.cli\n"
        "def broken(name, **options): raise TypeError('planted')\n"
        "autotune.config.load_study = broken\n"
        "sys.exit(autotune.cli.main(['run', 'small', *sys.argv[1:]]))"
    )
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert plain.returncode == 1 and plain.stderr.count("\n") == 1
    assert "unexpected TypeError: planted" in plain.stderr and "--debug" in plain.stderr
    loud = subprocess.run([sys.executable, "-c", code, "--debug"], capture_output=True, text=True, timeout=60)
    assert loud.returncode == 1 and "Traceback" in loud.stderr and "broken" in loud.stderr


def test_debug_shows_where_a_refusal_came_from(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "smal", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("autotune: ")
