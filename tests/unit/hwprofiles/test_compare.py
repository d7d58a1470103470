"""Models on targets, really measured; what is broken stays in its row."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwprofiles.comparison import Comparison, ComparisonProgress, compare, summary
from hwprofiles.comparison.answers import with_file_names
from hwprofiles.errors import Failure, TargetLost
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target
from tests.unit.hwprofiles.conftest import save

X = [{"x": np.ones((1, 64), np.float32)}]
HERE = Target(name="here", timeout=60, options={"quiet_wait": 0})


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """y = log(-x): NaN for what the others take."""
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Log", ["n"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
    )
    return save(graph, tmp_path / "poisoned.onnx")


def test_models_on_targets(dense: Path, wide: Path, tmp_path: Path, quick: Scenario) -> None:
    targets = [HERE, HERE.model_copy(update={"name": "there", "threads": 2})]
    told: list[ComparisonProgress] = []
    scenario = quick.model_copy(update={"memory_runs": 1})
    comparison = compare(
        [dense, wide],
        targets,
        inputs=X,
        scenario=scenario,
        prices={"here": 0.05},
        work=tmp_path / "w",
        watch=told.append,
    )
    assert [(row.model, row.target) for row in comparison.rows] == [
        ("dense.onnx", "here"), ("wide.onnx", "here"), ("dense.onnx", "there"), ("wide.onnx", "there"),
    ]  # fmt: skip
    assert all(row.problem is None for row in comparison.rows)
    for target in ("here", "there"):
        first, second = (comparison.row(name, target).measurement for name in ("dense.onnx", "wide.onnx"))
        assert first is not None and second is not None
        assert (
            first.baseline is None and second.baseline == first.model == hashlib.sha256(dense.read_bytes()).hexdigest()
        )
        assert comparison.reference(target) == "dense.onnx"
        assert comparison.ranking("memory", target) is not None
    assert comparison.targets[1].fingerprint is not None and comparison.targets[1].fingerprint.threads == 2
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
    # Everything is told, with an estimate that shrinks to nothing.
    assert [record.done for record in told] == [0, 1, 1, 2, 2, 3, 3, 4] and {record.total for record in told} == {4}
    assert told[0].at_most and not told[-1].at_most and told[-1].seconds_left == 0 < told[1].seconds_left
    assert told[-1].row == comparison.rows[-1]


def test_cost_comes_from_the_median(dense: Path, tmp_path: Path, quick: Scenario) -> None:
    comparison = compare([dense], [HERE], inputs=X, scenario=quick, prices={"here": 3.6}, work=tmp_path / "w")
    (row,) = comparison.rows
    assert row.measurement is not None and row.measurement.latency is not None
    median, cost = row.measurement.latency.median, row.cost[""]
    for end in ("value", "low", "high"):
        assert getattr(cost, end) == pytest.approx(3.6 / 3600 * getattr(median, end) * 1e6)


def test_one_broken_target_does_not_end_the_comparison(
    dense: Path, wide: Path, tmp_path: Path, quick: Scenario
) -> None:
    broken = [
        Target(name="nowhere", python="/no/such/python"),
        Target(name="odd", transport="pigeon"),
        Target(name="bare", provider="CUDAExecutionProvider"),
    ]
    comparison = compare([dense, wide], [*broken, HERE], inputs=X, scenario=quick, work=tmp_path / "w")
    for name, hint in (("nowhere", "/no/such/python"), ("odd", "pigeon"), ("bare", "CUDAExecutionProvider")):
        rows = [row for row in comparison.rows if row.target == name]
        assert len(rows) == 2
        for row in rows:
            assert row.unavailable is not None and hint in row.unavailable and row.measurement is None
    assert comparison.row("wide.onnx", "here").problem is None
    assert sum("all models on nowhere" in line for line in summary(comparison)) == 1


def test_a_broken_model_is_a_failure_and_the_next_takes_its_place(
    dense: Path, wide: Path, tmp_path: Path, quick: Scenario
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    comparison = compare([broken, dense, wide], [HERE], inputs=X, scenario=quick, work=tmp_path / "w")
    failure = comparison.row("broken.onnx", "here")
    assert failure.measurement is not None and failure.measurement.failure is not None
    assert str(broken) in str(failure.problem) and "blobs" not in str(failure.problem)
    assert comparison.reference("here") == "dense.onnx"
    other = comparison.row("wide.onnx", "here").measurement
    assert other is not None and other.ratio is not None
    assert any("broken.onnx did not run" in line for line in summary(comparison))


def test_a_model_that_answers_nan_is_not_timed(dense: Path, poisoned: Path, tmp_path: Path, quick: Scenario) -> None:
    comparison = compare([dense, poisoned], [HERE], inputs=X, scenario=quick, work=tmp_path / "w")
    record = comparison.row("poisoned.onnx", "here").measurement
    assert record is not None and record.latency is None and record.failure is not None
    assert record.failure.kind == "nonfinite" and "'y' is NaN in 100%" in record.failure.message


def test_emulated_numbers_are_kept_and_not_ranked(dense: Path, wide: Path, tmp_path: Path, quick: Scenario) -> None:
    fake = HERE.model_copy(update={"provenance": "emulated"})
    comparison = compare([dense, wide], [fake], inputs=X, scenario=quick, prices={"here": 1.0}, work=tmp_path / "w")
    assert all(row.measurement is not None and row.measurement.latency is not None for row in comparison.rows)
    assert all(not row.cost for row in comparison.rows)
    assert {ranking.metric for ranking in comparison.rankings} == {"size"}


class Fragile:
    """A device that is lost in its second measurement, as over a connection that breaks."""

    def __init__(self, device: object, calls: list[str]) -> None:
        self._device = device
        self._calls = calls

    def __getattr__(self, name: str) -> object:
        return getattr(self._device, name)

    def measure(self, model: Path, *arguments: object, **named: object) -> object:
        self._calls.append(model.name)
        if len(self._calls) == 2:
            raise TargetLost("target 'here': the connection broke")
        return self._device.measure(model, *arguments, **named)  # type: ignore[attr-defined]


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    from hwprofiles.comparison import run

    calls: list[str] = []
    real = run.open_device
    monkeypatch.setattr(run, "open_device", lambda target, *, work: Fragile(real(target, work=work), calls))
    return calls  # type: ignore[return-value]


def test_a_lost_target_is_tried_again_for_the_next_model(
    fragile: list[str], dense: Path, wide: Path, tmp_path: Path, quick: Scenario
) -> None:
    third = Path(shutil.copy(wide, tmp_path / "third.onnx"))
    comparison = compare([dense, wide, third], [HERE], inputs=X, scenario=quick, work=tmp_path / "w")
    assert fragile == ["dense.onnx", "wide.onnx", "third.onnx"]
    assert [row.problem is None for row in comparison.rows] == [True, False, True]
    assert "target lost: target 'here': the connection broke" in str(comparison.rows[1].unavailable)
    record = comparison.rows[2].measurement
    assert record is not None and record.ratio is not None  # still paired with the first


def test_names_tell_files_apart(dense: Path, tmp_path: Path, quick: Scenario) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(dense, tmp_path / folder / "model.onnx")
    paths = [tmp_path / "a" / "model.onnx", tmp_path / "b" / "model.onnx", tmp_path / "a" / "model.onnx"]
    target = Target(name="nowhere", python="/no/such/python")
    comparison = compare(paths, [target], inputs=X, scenario=quick, work=tmp_path / "w")
    assert [subject.name for subject in comparison.models] == ["a/model.onnx", "b/model.onnx", "a/model.onnx (2)"]


@pytest.mark.parametrize(
    ("prices", "targets", "hint"),
    [
        ({"moon": 1.0}, [HERE], "moon"),
        ({"here": 0.0}, [HERE], "positive"),
        ({"here": float("nan")}, [HERE], "positive"),
        ({}, [HERE, HERE], "twice"),
        ({}, [], "at least one"),
    ],
)
def test_what_fits_no_comparison(
    dense: Path, tmp_path: Path, prices: dict[str, float], targets: list[Target], hint: str
) -> None:
    with pytest.raises(ValueError, match=hint):
        compare([dense], targets, inputs=X, prices=prices, work=tmp_path / "w")


def test_a_missing_file_is_found_before_anything_starts(dense: Path, tmp_path: Path) -> None:
    told: list[ComparisonProgress] = []
    with pytest.raises(FileNotFoundError):
        compare([dense, tmp_path / "no.onnx"], [HERE], inputs=X, work=tmp_path / "w", watch=told.append)
    assert not told


def test_failures_name_the_users_file() -> None:
    digest = "ab" * 32
    failure = Failure(
        kind="bad_model",
        stage="load",
        message=f"Load model from /tmp/x y/blobs/{digest}.onnx failed:Protobuf parsing failed.",
        traceback=f'File "/var/cache/{digest}.onnx" (/a/{digest})',
    )
    told = with_file_names(failure, {digest: "my models/a.onnx"})
    assert digest not in told.message and digest not in str(told.traceback)
    assert "my models/a.onnx failed:Protobuf" in told.message and told.kind == "bad_model"


def test_masked_scores_may_be_infinite(tmp_path: Path, quick: Scenario) -> None:
    graph = helper.make_graph(
        [helper.make_node("Log", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
    )
    model = save(graph, tmp_path / "log.onnx")
    onnx.checker.check_model(str(model))
    zeros = [{"x": np.zeros((1, 64), np.float32)}]
    comparison = compare([model], [HERE], inputs=zeros, scenario=quick, work=tmp_path / "w")
    assert comparison.rows[0].problem is None


def test_wrong_inputs_are_a_failure_of_the_row(dense: Path, tmp_path: Path, quick: Scenario) -> None:
    wrong = [{"z": np.ones((1, 64), np.float32)}]
    comparison = compare([dense], [HERE], inputs=wrong, scenario=quick, work=tmp_path / "w")
    record = comparison.rows[0].measurement
    assert record is not None and record.failure is not None and "z" in record.failure.message
