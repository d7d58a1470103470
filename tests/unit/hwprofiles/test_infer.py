"""Inference in other processes: the same numbers, in order, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwprofiles.device import Device
from hwprofiles.errors import DeviceFailure
from hwprofiles.scenario import Scenario

OpenDevice = Callable[..., Device]


def batch(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 64), value, np.float32)}


@pytest.mark.parametrize("workers", [1, 3])
def test_outputs_come_in_order(opened: OpenDevice, dense: Path, workers: int) -> None:
    device = opened()
    (one,) = device.infer(dense, [batch(1)])
    outputs = list(device.infer(dense, map(batch, range(40)), workers=workers))
    assert len(outputs) == 40
    for value, out in enumerate(outputs):
        np.testing.assert_allclose(out["y"], one["y"] * value, rtol=1e-4, atol=1e-5)


def test_input_is_taken_as_it_is_needed(opened: OpenDevice, dense: Path) -> None:
    taken: list[int] = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for value in range(100):
            taken.append(value)
            yield batch(value)

    outputs = opened().infer(dense, batches(), workers=2)
    assert not taken
    next(outputs)
    assert len(taken) <= 5
    outputs.close()
    assert len(taken) <= 5


def test_no_batches_no_outputs(opened: OpenDevice, dense: Path) -> None:
    assert list(opened().infer(dense, [], workers=2)) == []


def test_a_failure_in_the_middle(opened: OpenDevice, dense: Path) -> None:
    device = opened()
    bad = {"x": np.ones((1, 3), np.float32)}
    outputs = device.infer(dense, [batch(1), bad, batch(2)], workers=2)
    next(outputs)
    with pytest.raises(DeviceFailure):
        list(outputs)
    assert len(list(device.infer(dense, [batch(1)], workers=2))) == 1


def test_an_error_of_the_callers_iterator_passes_through(opened: OpenDevice, dense: Path) -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield batch(1)
        raise LookupError("the data set is gone")

    device = opened()
    with pytest.raises(LookupError, match="gone"):
        list(device.infer(dense, batches()))
    assert len(list(device.infer(dense, [batch(1)]))) == 1


def test_measuring_in_the_middle_is_refused_instead_of_waiting_for_itself(
    opened: OpenDevice, dense: Path, quick: Scenario
) -> None:
    device = opened()
    outputs = device.infer(dense, [batch(1), batch(2)])
    next(outputs)
    with pytest.raises(RuntimeError, match=r"infer\(\)"):
        device.measure(dense, [batch(1)], scenario=quick)
    outputs.close()
    assert device.measure(dense, [batch(1)], scenario=quick).failure is None


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_are_counted_from_one(opened: OpenDevice, dense: Path, workers: int) -> None:
    with pytest.raises(ValueError, match="workers"):
        opened().infer(dense, [], workers=workers)


def test_another_model_in_between(opened: OpenDevice, dense: Path, wide: Path) -> None:
    device = opened()
    shapes = [next(iter(device.infer(model, [batch(1)])))["y"].shape for model in (dense, wide, dense)]
    assert shapes == [(1, 64)] * 3


def test_text_and_not_a_number_come_through(opened: OpenDevice, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["u"]), helper.make_node("Log", ["x"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("t", TensorProto.STRING, ["n"]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("u", TensorProto.STRING, ["n"]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]),
        ],
    )
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    feed = {"t": np.array(["ä", ""], dtype=object), "x": np.array([0.0, -1.0], np.float32)}
    (out,) = opened().infer(path, [feed])
    assert out["u"].tolist() == ["ä", ""]
    assert np.isneginf(out["y"][0]) and np.isnan(out["y"][1])


def test_kernels_inside_a_loop_are_listed(opened: OpenDevice, tmp_path: Path, hang: Path) -> None:
    model = onnx.load(hang)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(3, np.int64), "trips"))
    path = tmp_path / "three.onnx"
    onnx.save(model, path)
    ops = [kernel.op for kernel in opened().kernels(path, {"x": np.ones(2, np.float32)})]
    assert "Loop" in ops and "Add" in ops
