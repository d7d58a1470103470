"""Study files: what is accepted, and the one line that says where a mistake is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.config import load_study, load_workload, override
from autotune.config.positions import Positions
from autotune.errors import ConfigError, DataError, UsageError

GOOD = """\
name = "small"          # line 1
targets = ["local"]

[search]
objectives = [
    "size_bytes",       # line 6
    "drop/worst",
]
trials = 3              # line 9

[techniques.quantize]
calibration = "percentile"

[[groups]]
name = "first"          # line 15
layers = ["conv*"]

[[groups]]
name = "second"         # line 19
layers = ["fc*"]

[constraints]
size_bytes = "10MB"     # line 23
"drop/worst" = 0.02
"""

TASK = """\
import numpy as np
from autotune import Dataset, Sample, Workload

def samples(seed, n):
    rng = np.random.default_rng(seed)
    inputs = [{"x": rng.normal(size=(1, 4)).astype("float32")} for _ in range(n)]
    return [Sample(f"{seed}-{i}", x, 0, {"even": i % 2}) for i, x in enumerate(inputs)]

def workload():
    return Workload(
        model="model.onnx",
        search=Dataset("search", samples(0, 8)),
        heldout=Dataset("heldout", samples(1, 8)),
        calibration=[s.inputs for s in samples(2, 4)],
        decode=lambda outputs: outputs["y"].argmax(-1).tolist(),
        slices=("even",),
    )
"""


def write(folder: Path, text: str | bytes, task: str = TASK) -> Path:
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / "study.toml").write_bytes(raw)
    (folder / "task.py").write_text(task)
    return folder


def refuse(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(str(write(folder, text)))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_file(tmp_path: Path) -> None:
    loaded = load_study(str(write(tmp_path, GOOD)))
    assert loaded.folder == tmp_path
    assert loaded.config.search.trials == 3
    assert loaded.config.constraints == {"size_bytes": 10e6, "drop/worst": 0.02}
    assert [group.name for group in loaded.config.groups] == ["first", "second"]


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    assert load_study(str(write(tmp_path, raw))).config.name == "small"


def test_a_study_by_name(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    write(tmp_path / "small", GOOD)
    assert load_study("small", studies=tmp_path).folder == tmp_path / "small"
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        load_study("smal", studies=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "hint"),
    [
        ("trials = 3 ", "trails = 3 ", 9, "search.trails: unknown key; did you mean 'trials'"),
        ("trials = 3 ", 'trials = "3" ', 9, "search.trials: input should be a valid integer"),
        ("trials = 3 ", "trials = 0 ", 9, "greater than or equal to 1"),
        ("trials = 3 ", "trials = true ", 9, "valid integer"),
        ("trials = 3 ", "trials = 1979-05-27 ", 9, "valid integer"),
        ("trials = 3 ", "trials = 3\nhours = -1 ", 10, "search.hours"),
        ("trials = 3 ", "trials = 3\nhours = nan ", 10, "finite number"),
        ("trials = 3 ", "trials = 3\nhours = 1e999 ", 10, "finite number"),
        ("trials = 3 ", "trials = 3\ntrials = 4 ", 10, "not valid TOML"),
        ("trials = 3 ", "trials = ", 9, "not valid TOML"),
        ("trials = 3 ", 'trials = 3\nsampler = "tpee" ', 10, "did you mean 'tpe'"),
        ("trials = 3 ", 'trials = 3\nsampler = "__class__" ', 10, "unknown sampler"),
        ('"size_bytes", ', '"latency_p50", ', 5, "needs a target"),
        ('"size_bytes", ', '"latency_p50@moon", ', 5, "not in targets"),
        ('    "drop/worst",', '    "drop/worst", "drop/worst",', 5, "is there twice"),
        ('["local"]', '["locl"]', 2, "did you mean 'local'"),
        ('["local"]', '["local", "local"]', 2, "is there twice"),
        ('["local"]', "[]", 2, "at least one target"),
        ('["local"]', '"local"', 2, "valid"),
        ("[techniques.quantize]", "[techniques.quantise]", 11, "did you mean 'quantize'"),
        ('"percentile"', '"percentil"', 12, "techniques.quantize.calibration"),
        ("calibration =", "calibratoin =", 12, "did you mean 'calibration'"),
        ('name = "second" ', 'nam = "second" ', 19, "groups[1].nam: unknown key"),
        ('name = "second" ', "name = 2 ", 19, "groups[1].name"),
        ('name = "second" ', 'name = "first" ', 18, "is there twice"),
        ('"10MB"', '"10ms"', 23, "wrong unit"),
        ('"10MB"', "-inf", 23, "finite number"),
        ('"10MB"', "[1]", 23, "constraints.size_bytes"),
        ("size_bytes = ", '"; DROP TABLE trials" = ', 23, "malformed"),
        ("size_bytes = ", "__proto__ = ", 23, "malformed"),
        ('name = "small" ', 'name = "../etc" ', 1, "name"),
        ('name = "small" ', 'name = "small"\nworkload = {task = "/etc/passwd.py:f"} ', 2, "workload.task"),
        ('name = "small" ', 'name = "small"\njudge = 3 ', 2, "judge"),
        ('name = "small" ', 'name = "small"\n"\\u0000" = 3 ', 2, "unknown key"),
    ],
)
def test_a_mistake_is_found_with_its_line_and_key(tmp_path: Path, old: str, new: str, line: int, hint: str) -> None:
    assert GOOD.count(old) == 1
    message = refuse(tmp_path, GOOD.replace(old, new))
    assert message.startswith(f"{tmp_path / 'study.toml'}:{line}: "), message
    assert hint in message


def test_a_missing_name_is_said(tmp_path: Path) -> None:
    assert "study.toml:1: trials: unknown key" in refuse(tmp_path, "trials = 3")
    assert "name: is missing" in refuse(tmp_path, "")


def test_text_that_is_not_text(tmp_path: Path) -> None:
    assert re.search(r"study.toml:2: not UTF-8", refuse(tmp_path, b'name = "a"\n# caf\xe9\n'))
    assert "not valid TOML" in refuse(tmp_path, b'name = "a\0b"\n')
    assert "larger than" in refuse(tmp_path, b"# " + b"x" * (1 << 20))


def test_folders_that_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no study.toml in this folder"):
        load_study(str(tmp_path))
    (tmp_path / "study.toml").mkdir()
    with pytest.raises(ConfigError, match="not a regular file"):
        load_study(str(tmp_path))
    for name in ("", "no/such/folder", "a\0b", "$(reboot)", "x\ny"):
        with pytest.raises(ConfigError):
            load_study(name)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_loader(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        load_study(str(write(folder, raw)))
    except ConfigError as error:
        assert "study.toml" in str(error)


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    loaded = load_study(str(write(tmp_path, GOOD)))
    changed = override(loaded, trials=7, hours=0.5).config
    assert (changed.search.trials, changed.search.hours) == (7, 0.5)
    assert changed.constraints == loaded.config.constraints
    assert override(loaded).config == loaded.config
    with pytest.raises(UsageError, match="--trials 0"):
        override(loaded, trials=0)
    with pytest.raises(UsageError, match="--hours"):
        override(loaded, hours=float("nan"))
    with pytest.raises(UsageError, match="did you mean 'local'"):
        override(loaded, targets=["loca"])


def test_positions_see_through_arrays_strings_and_quotes() -> None:
    text = """\
a = [
  "x = 1",   # [no.header]
  [1, 2],
]
b = '''
[not.a.header]
c = 1
'''
[t."dotted.key".u]
v.w = 1
inline = {p = 1, q = 2}
[[list]]
k = 1
[[list]]
k = 2
[list.sub]
deep = 3
"""
    positions = Positions(text)
    assert positions.line(["a"]) == 1
    assert positions.line(["a", 1]) == 1
    assert positions.line(["b"]) == 5
    assert positions.line(["c"]) is None
    assert positions.line(["not"]) is None
    assert positions.line(["t", "dotted.key", "u", "v", "w"]) == 10
    assert positions.line(["t", "dotted.key", "u", "inline", "q"]) == 11
    assert positions.line(["list", 0, "k"]) == 13
    assert positions.line(["list", 1, "k"]) == 15
    assert positions.line(["list", 1, "sub", "deep"]) == 17


def task_error(folder: Path, task: str, kind: type[Exception] = DataError, study: str = GOOD) -> str:
    loaded = load_study(str(write(folder, study, task)))
    with pytest.raises(kind) as caught:
        load_workload(loaded)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_task_is_run_and_announced(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "beside.py").write_text("COUNT = 8\n")
    task = "import beside\n" + TASK.replace("samples(0, 8)", "samples(0, beside.COUNT)")
    workload = load_workload(load_study(str(write(tmp_path, GOOD, task))), say=said.append)
    assert len(workload.search) == 8
    assert said == [f"running the study's own code: {tmp_path / 'task.py'}:workload"]


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        (
            "    return Workload(",
            "    1 / 0\n    return Workload(",
            "task.py:10: in workload: ZeroDivisionError",
        ),
        ("    return Workload(", "    raise SystemExit(3)\n    return Workload(", "SystemExit: 3"),
        (
            "    return Workload(",
            "    return 3\n    Workload(",
            "must return an autotune.Workload, it returned int",
        ),
        ("    rng = ", "    open('/no/such file')\n    rng = ", "task.py:5: in samples: FileNotFoundError"),
        ("import numpy as np", "import no_such_module\nimport numpy as np", "ModuleNotFoundError"),
        ("def workload():", "def workload(:", "task.py:9: "),
        ("samples(0, 8)", "[]", "data set 'search' is empty"),
        ("samples(1, 8)", "[]", "data set 'heldout' is empty"),
        ("[s.inputs for s in samples(2, 4)]", "[]", "calibration is empty"),
        ("samples(2, 4)", "samples(0, 4)", "calibration[0] has the inputs of search sample '0-0'"),
        ("samples(1, 8)", "samples(0, 8)", "held-out sample '0-0' has the inputs of search sample '0-0'"),
        ('f"{seed}-{i}"', '"same"', "the sample id 'same' is there twice"),
        ("size=(1, 4)", "size=(1, 0)", "no elements"),
        ('astype("float32")', 'astype("float32") * np.nan', "holds NaN or infinity"),
        ('astype("float32")', 'astype("O")', "Python objects"),
        ('astype("float32")', "tolist()", "must be a numpy array, not list"),
        ('{"x": rng', '{"x" if _ else "z": rng', "has the inputs x, the samples before have z"),
        ('decode=lambda outputs: outputs["y"].argmax(-1).tolist()', "decode=3", "decode must be a function"),
        ('slices=("even",)', "metric=3", "metric must be a name or a function"),
    ],
)
def test_mistakes_in_the_task_are_one_line(tmp_path: Path, old: str, new: str, hint: str) -> None:
    assert old in TASK
    assert hint in task_error(tmp_path, TASK.replace(old, new, 1))


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("os:system", "not FILE.py:FUNCTION"),
        ("task.py", "not FILE.py:FUNCTION"),
        ("../task.py:workload", "not inside the study folder"),
        ("nothing.py:workload", "there is no file"),
        ("task.py:workloads", "did you mean 'workload'"),
        ("task.py:__import__('os')", "not FILE.py:FUNCTION"),
    ],
)
def test_where_the_task_may_be(tmp_path: Path, task: str, hint: str) -> None:
    study = GOOD.replace("[search]", f'workload = {{task = "{task}"}}\n[search]')
    message = task_error(tmp_path, TASK, ConfigError, study)
    assert message.startswith(f"{tmp_path / 'study.toml'}:4: workload.task: ")
    assert hint in message


def test_keys_are_checked_against_the_workload_metric(tmp_path: Path) -> None:
    study = GOOD.replace('"drop/worst",\n', '"acuracy/worst",\n')
    with pytest.raises(ConfigError, match=r"study.toml:5: search.objectives\[1\]: .*did you mean 'accuracy'"):
        load_workload(load_study(str(write(tmp_path, study))))


EMULATED = 'threads = 1\nprovenance = "{}"\n'


@pytest.mark.parametrize("provenance", ["emulated", "software", "simulated"])
def test_costs_of_what_is_not_hardware_decide_nothing(tmp_path: Path, provenance: str) -> None:
    (tmp_path / "phone.toml").write_text(EMULATED.format(provenance))
    head = 'name = "small"\ntargets = ["local", "phone"]\n[techniques.quantize]\n'
    allowed = '[search]\nobjectives = ["size_bytes", "latency_ratio@local", "drop/worst"]\n'
    message = refuse(tmp_path, head + '[search]\nobjectives = [\n    "size_bytes",\n    "latency_p50@phone",\n]\n')
    assert (
        f"study.toml:5: search.objectives[1]: latency_p50@phone is a cost on target 'phone', which is {provenance}"
        in (message.replace(str(tmp_path) + "/", ""))
    )
    message = refuse(tmp_path, head + allowed + '[constraints]\n"memory_peak@phone" = "10MB"\n')
    assert "study.toml:7: constraints.memory_peak@phone: memory_peak@phone is a cost on target 'phone'" in message
    message = refuse(tmp_path, head)
    assert "study.toml:2: targets[1]: latency_ratio@phone, a default objective, is a cost on target 'phone'" in message
    assert load_study(str(write(tmp_path, head + allowed))).config.targets == ("local", "phone")
    judged = allowed.replace('"drop/worst"', '"drop/worst@phone"')
    assert load_study(str(write(tmp_path, head + judged))), "what it answers counts, wherever it was computed"


def test_patience_is_a_table_of_its_own(tmp_path: Path) -> None:
    table = "[patience]\npauses = [1, 2.5]\nfailures = 2\nwaiting = 4\nseconds = 0\n"
    patience = load_study(str(write(tmp_path, GOOD + table))).config.patience
    assert (patience.pauses, patience.failures, patience.waiting, patience.seconds) == ((1.0, 2.5), 2, 4, 0.0)
    for wrong in ("pauses = []", "pauses = [0]", "failures = 0", "waiting = 0", "seconds = -1", "pause = 3"):
        assert "study.toml:26: patience" in refuse(tmp_path, f"{GOOD}[patience]\n{wrong}\n").replace("\\n", "")
