"""`autotune judge`: a gate for models that any tool made. Real models, real runs, every exit code."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import autotune
from autotune.cli import main
from autotune.config import JudgeTable
from autotune.judge.models import judge_models
from hwprofiles.device import open_keeper
from hwprofiles.registry import find_target

TASK = """
import numpy as np
from autotune import Dataset, Sample, Workload

WEIGHTS = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)


def columns(index):
    return {"half": "ab"[index % 2], "rare": "yes" if index < 30 else "no"}


def data(name, seed):
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(400):
        x = rng.normal(size=(1, 6)).astype(np.float32)
        samples.append(Sample(f"{name}{index}", {"x": x}, int((x @ WEIGHTS).argmax()), columns(index)))
    return Dataset(name, samples)


def workload():
    return Workload(
        model="unused.onnx",
        search=data("search", 1),
        heldout=data("heldout", 2),
        calibration=[{"x": np.zeros((1, 6), np.float32)}],
        decode=lambda outputs: [int(row.argmax()) for row in outputs["y"]],
        slices=["half"],
    )


def judged_only():
    import dataclasses
    heldout = data("heldout", 2)
    slices = {"rare": "rare", "first": lambda sample: sample.inputs["x"][0, 0] > 0}
    metric = lambda predictions, labels: right(predictions, labels)
    return dataclasses.replace(workload(), search=heldout, calibration=[], slices=slices, metric=metric)


def one_name():
    import dataclasses
    return dataclasses.replace(workload(), search=data("mine", 1), heldout=data("mine", 2))


def right(predictions, labels):
    return sum(p == y for p, y in zip(predictions, labels, strict=True)) / len(labels)


def broken_metric():
    import dataclasses
    return dataclasses.replace(workload(), metric={"broken": lambda predictions, labels: float("nan")})


def always_right():
    import dataclasses
    return dataclasses.replace(workload(), metric={"always": lambda predictions, labels: True})


def other_outputs():
    import dataclasses
    return dataclasses.replace(workload(), decode=lambda outputs: outputs["classes"].tolist())


def long_labels():
    import dataclasses
    def accuracy(predictions, labels):
        return sum(p == y for p, y in zip(predictions, [*labels, 0], strict=True)) / len(labels)
    return dataclasses.replace(workload(), metric=accuracy)
"""


def linear(weights: np.ndarray, path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original.onnx; same.onnx, which answers alike; worse.onnx; ruined.onnx."""
    place = tmp_path_factory.mktemp("judge")
    weights = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)
    linear(weights, place / "original.onnx")
    linear(weights * 2, place / "same.onnx")
    linear(weights + np.random.default_rng(1).normal(size=(6, 3)) * 0.4, place / "worse.onnx")
    linear(np.roll(weights, 1, axis=1), place / "ruined.onnx")
    (place / "task.py").write_text(TASK)
    return place


def run(folder: Path, candidate: str, *more: str, function: str = "workload") -> int:
    more = more if "--floor" in more else (*more, "--floor", "100")
    names = [str(folder / name) for name in ("original.onnx", candidate)]
    return main(["judge", *names, "--data", f"{folder / 'task.py'}:{function}", *more])


def test_a_model_that_answers_alike_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "same.onnx", "--limit", "4pt") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Passes: all 6 slices certainly lose no more than allowed" in shown
    for word in ("half=a", "difficulty=hard", "can see", "there is no noise", "0/0"):
        assert word in shown


def test_a_model_that_loses_more_fails_the_gate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "ruined.onnx", "--no-noise", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "fail" and found["sentences"][0].startswith("Fails: 6 of 6 slices lose")
    (evaluation,) = found["evaluations"]
    whole = evaluation["slices"][0]
    assert whole["drop"]["value"] > 0.5 and whole["kl"]["value"] > 0.1 and whole["q_value"] < 1e-6
    assert "outcomes" not in evaluation and found["noise"] == {}
    assert {result["kind"] for result in evaluation["slices"]} == {"declared", "automatic"}


def test_a_metric_that_compares_nothing_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "ruined.onnx", "--limit", "4pt", "--no-noise", function="always_right") == 0
    said = "WARNING: on the held-out data the metric 'always' gives 1 for every sample of both models, and also with"
    assert said in " ".join(capsys.readouterr().out.split())
    assert run(folder, "ruined.onnx", "--limit", "4pt", "--no-noise", "--json", function="always_right") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sentences"][1].startswith(said) and "'always' gives 1" in found["evaluations"][0]["warnings"][0]
    assert run(folder, "ruined.onnx", "--no-noise", "--json") == 1
    assert json.loads(capsys.readouterr().out)["evaluations"][0]["warnings"] == []


def test_too_few_samples_are_inconclusive_unless_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "same.onnx", "--limit", "0.5pt", "--no-noise") == 3
    assert "more samples would" in " ".join(capsys.readouterr().out.split())
    assert run(folder, "same.onnx", "--limit", "0.5pt", "--no-noise", "--allow-undecided") == 0


def test_a_slice_may_have_a_limit_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--max", "drop/worst=90pt", "--max", "drop/half=b=0.5pt"]
    assert run(folder, "worse.onnx", *limits, "--no-noise", "--set", "search", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    verdicts = {result["name"]: result["verdict"] for result in found["evaluations"][0]["slices"]}
    assert verdicts["half=a"] == "pass" and verdicts["half=b"] == "fail"
    assert found["evaluations"][0]["dataset"] == "search"


def test_a_slice_that_is_too_small_is_named_and_passes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what only a search needs (calibration, a search set of other samples, a metric's name) is not asked for."""
    small = ["--limit", "5pt", "--no-noise"]
    assert run(folder, "same.onnx", *small, "--json", function="judged_only") == 0
    found = json.loads(capsys.readouterr().out)
    told = "all 6 slices that could be judged certainly lose no more than allowed"
    assert told in found["sentences"][0]
    assert found["sentences"][0].endswith(
        "; not judged: rare: rare=yes has 30 samples of the 100 that a verdict needs."
    )
    names = [each["name"] for each in found["evaluations"][0]["slices"]]
    assert names[:4] == ["all", "rare: rare=no", "rare: rare=yes", "first"] and found["asked"] == ["first"]
    for which in ("original", "candidate"):
        model = folder / ("original.onnx" if which == "original" else "same.onnx")
        assert found[f"{which}_digest"] == hashlib.sha256(model.read_bytes()).hexdigest()
    code = hashlib.sha256((folder / "task.py").read_bytes()).hexdigest()
    assert found["code"] == {"decode": code, "metric metric": code, "slice first": code}
    assert found["evaluations"][0]["metric"] == "metric" and len(found["evaluations"][0]["dataset_digest"]) == 64

    for more in (["--slices", "rare=yes"], ["--slices", "rare"], ["--max", "drop/rare: rare=yes=30pt"]):
        assert run(folder, "same.onnx", *small, *more, function="judged_only") == 3
        shown = " ".join(capsys.readouterr().out.split())
        assert "none fails; the data do not decide for rare" in shown
        assert "(30 samples of the 100 that a verdict needs)" in shown
    assert run(folder, "same.onnx", *small, "--slices", "rare=yes", "--allow-undecided", function="judged_only") == 0


def test_a_function_of_the_workload_can_be_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--slices", "first() & half=a", "--slices", "!first()", "--limit", "9pt", "--no-noise", "--floor", "50"]
    assert run(folder, "same.onnx", *more, "--json", function="judged_only") == 0
    names = [each["name"] for each in json.loads(capsys.readouterr().out)["evaluations"][0]["slices"]]
    assert names[:3] == ["all", "first() & half=a", "!first()"]


def test_other_slices_perturbations_and_both_data_sets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(folder, "same.onnx", "--slices", "label", "--set", "both", "--limit", "9pt", "--no-noise", "--json")
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and [e["dataset"] for e in found["evaluations"]] == ["search", "heldout"]
    assert "all 7 slices of the search data and all 7 slices of the held-out data" in found["sentences"][0]
    names = [result["name"] for result in found["evaluations"][1]["slices"]]
    assert "label=1" in names and "half=a" not in names


@pytest.mark.parametrize(
    ("candidate", "function", "more", "code", "said"),
    [
        ("missing.onnx", "workload", [], 65, "no such file"),
        ("task.py", "workload", [], 65, "task.py"),
        ("same.onnx", "broken_metric", [], 65, "finite number"),
        ("same.onnx", "other_outputs", [], 65, "decode raised KeyError: 'classes'"),
        ("same.onnx", "long_labels", [], 65, "ValueError"),
        ("same.onnx", "nothing", [], 2, "no function 'nothing'"),
        ("same.onnx", "workload", ["--max", "drop/nigth=2pt"], 2, "no such slice"),
        ("same.onnx", "workload", ["--max", "size_bytes=2MB"], 2, "drop/SLICE"),
        ("same.onnx", "workload", ["--limit", "0"], 2, "at least 0.0001 and below 100 points"),
        ("same.onnx", "workload", ["--slices", "hlaf"], 65, "hlaf"),
        ("same.onnx", "workload", ["--target", "nowhere"], 2, "nowhere"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(
    folder: Path,
    candidate: str,
    function: str,
    more: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(folder, candidate, *more, function=function) == code
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("autotune:")]
    assert len(lines) == 1 and said in lines[0]
    late = ("broken_metric", "other_outputs", "long_labels")
    assert ("both models answer" in told) == (function in late or candidate == "task.py"), "names before any model runs"


def test_a_target_that_is_not_there(folder: Path) -> None:
    (folder / "far.toml").write_text('transport = "local"\npython = "/nowhere/python"\n')
    assert run(folder, "same.onnx", "--target", "far", "--folder", str(folder)) == 69


def test_data_sets_of_one_name_stay_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "same.onnx", "--set", "both", "--limit", "9pt", "--json", function="one_name") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["dataset"] for each in found["evaluations"]] == ["search", "heldout"]
    assert set(found["noise"]) == {"search", "heldout"}
    told = "all 6 slices of the search data and all 6 slices of the held-out data certainly lose"
    assert told in found["sentences"][0]


def test_from_python(folder: Path) -> None:
    space: dict[str, object] = {}
    exec(TASK, space)
    found = judge_models(folder / "original.onnx", folder / "ruined.onnx", space["workload"]())  # type: ignore[operator]
    assert autotune.judge_models is judge_models and isinstance(found, autotune.ModelJudgement)
    assert found.verdict == "fail"
    assert found.noise["heldout"].variations and found.noise["heldout"].drops["all"] == 0.0
    assert found.evaluations[0].slice("all").noise == 0.0


def test_one_of_many_candidates_needs_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "same.onnx", "--limit", "4pt", "--no-noise", "--among", "50") == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "passes only where an interval of 99.9 % is within the limit, and q is 50 times as large" in shown


def test_a_collapsed_slice_fails_the_gate_however_small(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "ruined.onnx", "--no-noise", "--floor", "100000", "--limit", "4pt") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "Fails: " in shown and "slices lose more than allowed" in shown
    assert "(certain although there are only" in shown


def test_who_is_waited_for_is_told(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with open_keeper(find_target("local"), work=tmp_path) as keeper, keeper.exclusive("a long timing"):
            held.set()
            free.wait(120)

    def listen(text: str) -> None:
        said.append(text)
        if text.startswith("waiting for local"):
            free.set()

    space: dict[str, object] = {}
    exec(TASK, space)
    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(60)
        models = folder / "original.onnx", folder / "same.onnx"
        judge_models(*models, space["workload"](), table=JudgeTable(floor=100, noise=False), say=listen)  # type: ignore[operator]
    finally:
        free.set()
        holder.join(60)
    (told,) = [text for text in said if text.startswith("waiting")]
    assert told.endswith("a long timing") and "it is in use by" in told
