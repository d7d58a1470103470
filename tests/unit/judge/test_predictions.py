"""Predictions: real models in the real measuring process, batches, order, and the ways it can go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.errors import TrialFailure
from autotune.judge.damage import divergence
from autotune.judge.predictions import plain, predict, predict_beside
from autotune.workload import Arrays, Dataset, Sample
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure
from hwprofiles.registry import find_target


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with open_device(find_target("local"), work=tmp_path_factory.mktemp("device")) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = 1 / x, x of shape [batch, width]: infinite where x is 0."""
    node = helper.make_node("Reciprocal", ["x"], ["y"])
    shape = ["batch", "width"]
    graph = helper.make_graph(
        [node],
        "reciprocal",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path_factory.mktemp("model") / "reciprocal.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def dataset(*rows: Sequence[float]) -> Dataset:
    samples = [Sample(str(i), {"x": np.array([row], np.float32)}, label=0) for i, row in enumerate(rows)]
    return Dataset("search", samples)


def first(outputs: Arrays) -> Sequence[Any]:
    return [float(row[0]) for row in outputs["y"]]


ROWS = ([1.0], [2.0, 9.0], [4.0], [8.0, 9.0], [16.0], [32.0])
EXPECTED = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (3, 1), (2, 2)])
def test_answers_come_in_the_order_of_the_samples(device: Device, model: Path, batch: int, workers: int) -> None:
    found = predict(device, model, dataset(*ROWS), first, batch=batch, workers=workers)
    assert found.ids == ("0", "1", "2", "3", "4", "5")
    assert found.predictions == EXPECTED
    assert found.seconds > 0


def test_only_equal_shapes_share_a_batch(device: Device, model: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(outputs: Arrays) -> Sequence[Any]:
        seen.append(outputs["y"].shape)
        return first(outputs)

    predict(device, model, dataset(*ROWS), watch, batch=3)
    assert sorted(seen) == [(1, 1), (2, 2), (3, 1)]


def test_numpy_answers_become_plain_values(device: Device, model: Path) -> None:
    found = predict(device, model, dataset([1.0], [2.0]), lambda outputs: outputs["y"], batch=2)
    assert found.predictions == ([1.0], [0.5])
    assert plain({"box": (np.int64(3), np.bool_(True))}) == {"box": [3, True]}


def test_infinity_names_the_output_and_the_sample(device: Device, model: Path) -> None:
    with pytest.raises(DeviceFailure, match="NaN or infinity in output 'y' at sample 1") as caught:
        predict(device, model, dataset([1.0], [0.0]), first)
    assert caught.value.failure.kind == "nonfinite"


def test_infinity_in_a_batch_names_the_very_sample(device: Device, model: Path) -> None:
    with pytest.raises(DeviceFailure, match="at sample 2"):
        predict(device, model, dataset([1.0], [2.0], [0.0]), first, batch=3)


def test_a_decode_that_raises_is_one_line_with_its_traceback(device: Device, model: Path) -> None:
    def broken(outputs: Arrays) -> Sequence[Any]:
        return [outputs["logits"]]

    with pytest.raises(TrialFailure) as caught:
        predict(device, model, dataset([1.0]), broken)
    failure = caught.value.failure
    assert failure.kind == "user_code"
    assert failure.message == "decode raised KeyError: 'logits'; it was given y float32[1, 1]"
    assert "in broken" in str(failure.traceback)


def test_one_prediction_per_sample(device: Device, model: Path) -> None:
    with pytest.raises(TrialFailure, match="decode gave 1 predictions for a batch of 2"):
        predict(device, model, dataset([1.0], [2.0]), lambda outputs: [0], batch=2)


def test_predictions_must_be_values_that_can_be_kept(device: Device, model: Path) -> None:
    with pytest.raises(TrialFailure, match="decode raised TypeError: object is not a JSON value"):
        predict(device, model, dataset([1.0]), lambda outputs: [object()])


def test_the_device_keeps_working_after_a_failure(device: Device, model: Path) -> None:
    with pytest.raises(DeviceFailure):
        predict(device, model, dataset([0.0], *ROWS), first)
    assert predict(device, model, dataset(*ROWS), first).predictions == EXPECTED


@pytest.mark.parametrize("batch", [1, 3])
def test_two_models_beside_each_other(device: Device, model: Path, tmp_path: Path, batch: int) -> None:
    other = onnx.load(model)
    other.graph.node[0].op_type = "Neg"
    onnx.save(other, tmp_path / "negative.onnx")
    rows = [[float(i + 1), 2.0] for i in range(30)]
    data = dataset(*rows)
    before, after = predict_beside(
        device, model, tmp_path / "negative.onnx", data, first, batch=batch, workers=2, memory=64
    )
    alone = predict(device, model, data, first)
    assert (before.ids, before.predictions, before.divergence) == (alone.ids, alone.predictions, None)
    assert after.predictions == tuple(-row[0] for row in rows)
    outputs = [(1 / np.array([row], np.float32), -np.array([row], np.float32)) for row in rows]
    expected = [divergence({"y": one}, {"y": two}) for one, two in outputs]
    assert after.divergence == pytest.approx(expected)


def test_the_same_model_beside_itself_diverges_nowhere(device: Device, model: Path) -> None:
    before, after = predict_beside(device, model, model, dataset(*ROWS), first)
    assert after.divergence == (0.0,) * len(ROWS)
    assert before.predictions == after.predictions == EXPECTED


def test_models_without_a_common_output_have_no_divergence(device: Device, model: Path, tmp_path: Path) -> None:
    renamed = onnx.load(model)
    renamed.graph.node[0].output[0] = renamed.graph.output[0].name = "z"
    onnx.save(renamed, tmp_path / "renamed.onnx")

    def any_output(outputs: Arrays) -> Sequence[Any]:
        return [float(row[0]) for row in next(iter(outputs.values()))]

    before, after = predict_beside(device, model, tmp_path / "renamed.onnx", dataset(*ROWS), any_output)
    assert after.divergence is None and before.predictions == after.predictions


def test_the_divergence_of_a_classifier_with_logits_is_that_of_its_softmax(device: Device, tmp_path: Path) -> None:
    paths = []
    for op in ("Identity", "Neg"):
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], op, ports[:1], ports[1:])
        paths.append(tmp_path / f"{op}.onnx")
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), paths[-1])
    rows = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)

    def classify(outputs: Arrays) -> Sequence[Any]:
        return [int(row.argmax()) for row in outputs["y"]]

    _, after = predict_beside(device, *paths, dataset(*rows.tolist()), classify, batch=4)
    p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (rows, -rows))
    assert after.divergence == pytest.approx((p * np.log(p / q)).sum(axis=1), rel=1e-4)
