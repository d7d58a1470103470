"""Small models with a purpose, and targets with short patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.device import Device
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalTransport

QUICK = Scenario(
    warmup_seconds=0.0,
    warmup_iterations=5,
    block_seconds=0.001,
    block_iterations=5,
    min_pairs=5,
    max_pairs=8,
    precision=0.5,
    max_seconds=30,
    memory_runs=0,
)

OpenDevice = Callable[..., Device]


@pytest.fixture
def quick() -> Scenario:
    return QUICK


@pytest.fixture
def target() -> Target:
    return Target(name="here", timeout=60, options={"quiet_wait": 0})


@pytest.fixture
def opened(tmp_path: Path, target: Target) -> Iterator[OpenDevice]:
    """Opens devices that are closed after the test; keywords change the target."""
    devices: list[Device] = []

    def make(runtime: OnnxRuntime | None = None, **changes: object) -> Device:
        wanted = Target.model_validate({**target.model_dump(), **changes})
        devices.append(Device(wanted, LocalTransport(), runtime or OnnxRuntime(), tmp_path / "work"))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """y = x @ w, x of shape [batch, 64]."""
    return save_dense(tmp_path / "dense.onnx", width=64)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Like `dense`, with 64 times more to multiply."""
    return save_dense(tmp_path / "wide.onnx", width=512, inside=True)


@pytest.fixture
def hang(tmp_path: Path) -> Path:
    """A Loop that counts to 2^62."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["n"]),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(2**62, np.int64), "trips"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        constants,
    )
    return save(graph, tmp_path / "hang.onnx")


@pytest.fixture
def balloon(tmp_path: Path) -> Path:
    """Fills `n` floats with a constant and gives back their mean: takes 4 n bytes while it runs."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "ConstantOfShape",
                ["n"],
                ["filled"],
                value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.5]),
            ),
            helper.make_node("ReduceMean", ["filled"], ["y"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    return save(graph, tmp_path / "balloon.onnx")


def save_dense(path: Path, *, width: int, inside: bool = False) -> Path:
    """`inside` puts the width between two projections, so that the input keeps its shape."""
    random = np.random.default_rng(0)
    if inside:
        shapes, nodes = [(64, width), (width, 64)], [(["x", "w0"], ["h"]), (["h", "w1"], ["y"])]
    else:
        shapes, nodes = [(64, width)], [(["x", "w0"], ["y"])]
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), f"w{i}") for i, shape in enumerate(shapes)
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ins, outs) for ins, outs in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", shapes[-1][1]])],
        weights,
    )
    return save(graph, path)


def save(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
