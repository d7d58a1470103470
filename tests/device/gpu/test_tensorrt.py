"""TensorRT and TensorRT-RTX on a real card: the conformance suite, and what is theirs alone.

HW_AUTOTUNE_TENSORRT_PYTHON and HW_AUTOTUNE_TENSORRT_RTX_PYTHON name interpreters that have them; without, the one that
runs the tests is asked.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.device import open_device
from hwprofiles.errors import TargetUnavailable
from hwprofiles.runtimes.conformance import _QUICK
from hwprofiles.runtimes.protocol import Runtime
from hwprofiles.runtimes.tensorrt import TensorRt, TensorRtRtx
from hwprofiles.target import Target
from tests.device.gpu.cards import OnACard, need_card, without

pytestmark = pytest.mark.gpu

PYTHON = os.environ.get("HW_AUTOTUNE_TENSORRT_PYTHON", sys.executable)
RTX_PYTHON = os.environ.get("HW_AUTOTUNE_TENSORRT_RTX_PYTHON", sys.executable)


class OnTensorRt(OnACard):
    builds: ClassVar[int]

    def test_the_engine_tells_its_memory(self, tmp_path: Path) -> None:
        card = self.measured(tmp_path).accelerator
        assert card is not None
        assert card.memory.plan and card.memory.weights and card.memory.activations is not None

    def test_a_finalist_is_built_several_times_and_the_measured_engine_is_the_one_exported(
        self, tmp_path: Path
    ) -> None:
        scenario = _QUICK.model_copy(update={"phase": "final"})
        model, feeds = self._model(tmp_path), [{"x": np.ones((2, 8), np.float32)}]
        with self._open(tmp_path) as device:
            found = device.measure(model, feeds, scenario=scenario)
            plan = device.engine(model, feeds)
        assert found.failure is None, found.failure
        assert found.accelerator is not None and len(found.accelerator.builds) == self.builds
        assert found.accelerator.builds[0].digest == hashlib.sha256(plan).hexdigest()
        if self.builds > 1:
            times = [build.latency for build in found.accelerator.builds if build.latency is not None]
            assert len(times) == self.builds and times == sorted(times)

    def test_layers_tell_the_types_they_really_got(self, tmp_path: Path) -> None:
        path = tmp_path / "eight.onnx"
        onnx.save(_eight_bits(), path)
        x = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
        with self._open(tmp_path) as device:
            kernels = device.kernels(path, {"x": x})
        by_node = {node: kernel.op for kernel in kernels for node in kernel.node.split(" + ")}
        assert by_node["product"].endswith(":int8") and sum(kernel.seconds for kernel in kernels) > 0

    def test_a_damaged_engine_in_the_cache_is_built_anew(self, tmp_path: Path) -> None:
        self.measured(tmp_path)
        cache = Path(os.environ["XDG_CACHE_HOME"]) / "hw-autotune" / "engines"
        for file in cache.glob("*.engine"):
            file.write_bytes(file.read_bytes()[:-100])
        found = self.measured(tmp_path)
        assert "was damaged" in str(found.environment.get("candidate_notes"))

    def test_baseline_and_candidate_are_timed_on_their_own_work(self, tmp_path: Path) -> None:
        """Two sessions of one process: events, copies and replays of each must be on its own stream."""
        large, small = _product(tmp_path / "large.onnx", 4096), _product(tmp_path / "small.onnx", 64)
        feeds = [{"x": np.ones((4096, 4096), np.float32)}]
        with self._open(tmp_path) as device:
            found = device.measure(large, feeds, baseline=large, scenario=_QUICK)
            alone = device.measure(small, [{"x": np.ones((64, 64), np.float32)}], scenario=_QUICK)
        assert found.failure is None and alone.failure is None
        assert found.latency is not None and found.baseline_latency is not None and alone.latency is not None
        least = 2 * 4096**3 / 2e15  # no card does more operations in a second
        for latency in (found.latency, found.baseline_latency):
            assert latency.median.value > max(least, 2 * alone.latency.median.value)
        assert 0.8 < found.latency.median.value / found.baseline_latency.median.value < 1.25

    def test_out_of_the_cards_memory_is_typed_and_the_next_model_runs(self, tmp_path: Path) -> None:
        """Another process takes nearly all of the card; the engine lies in the cache, so that none is built."""
        model = _product(tmp_path / "large.onnx", 8192)  # 256 MiB of weights
        feed = {"x": np.ones((8192, 8192), np.float32)}
        with self._open(tmp_path) as device:
            assert len(list(device.infer(model, [feed]))) == 1
            assert len(list(device.infer(self._model(tmp_path), [{"x": np.ones((2, 8), np.float32)}]))) == 1
            with subprocess.Popen(
                [sys.executable, "-c", _BALLAST, str(128 << 20)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as other:
                assert other.stdout is not None and other.stdout.readline() == b"full\n"
                failure = self._failure(device, model, feed)
                other.communicate()
            assert failure.kind == "oom" and "\n" not in failure.message
            assert len(list(device.infer(model, [feed]))) == 1


class TestTensorRt(OnTensorRt):
    runtime: ClassVar[Runtime] = TensorRt()
    target = Target(
        name="card", runtime="tensorrt", dialect="tensorrt", provider="TensorRT", python=PYTHON, options={"builds": 2}
    )
    module = "tensorrt"
    builds = 2

    @pytest.fixture(autouse=True)
    def needs(self) -> None:
        need_card()
        if why := without(PYTHON, "import tensorrt; print(tensorrt.__version__ >= '11')"):
            pytest.skip(f"{PYTHON} has no TensorRT 11: {why}")


class TestTensorRtRtx(OnTensorRt):
    runtime: ClassVar[Runtime] = TensorRtRtx()
    target = Target(name="card", runtime="tensorrt-rtx", dialect="tensorrt", provider="TensorRT-RTX", python=RTX_PYTHON)
    module = "tensorrt_rtx_bindings"
    builds = 1

    @pytest.fixture(autouse=True)
    def needs(self) -> None:
        need_card()
        if why := without(RTX_PYTHON, "import tensorrt_rtx_bindings; print(True)"):
            pytest.skip(f"{RTX_PYTHON} has no TensorRT-RTX: {why}")
        if why := _no_kernels():
            pytest.skip(why)


@functools.cache
def _no_kernels() -> str:
    """Why TensorRT-RTX cannot run on this card at all; "" if it can."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            open_device(TestTensorRtRtx.target, work=Path(folder)).close()
    except TargetUnavailable as error:
        if "has no kernels for compute capability" not in str(error):
            raise
        return str(error)
    return ""


# Takes the card's memory but for so many bytes, in pieces, and holds it until its input ends.
_BALLAST = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
context, free, total, pointer = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0 and cuda.cuCtxSetCurrent(context) == 0
piece = 1 << 30
while piece >= 1 << 21:
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    left = free.value - int(sys.argv[1])
    if left < piece or cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(piece)) != 0:
        piece //= 2
print("full", flush=True)
sys.stdin.read()
"""


def _product(path: Path, size: int) -> Path:
    """y = x @ w, both of `size` times `size` float32."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    weight = numpy_helper.from_array(np.full((size, size), 1 / size, np.float32), "w")
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "product", *ports, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _eight_bits() -> onnx.ModelProto:
    """y = x @ w with both in 8 bits."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["dw"], name="weights"),
        helper.make_node("MatMul", ["d", "dw"], ["y"], name="product"),
    ]
    inits = [
        numpy_helper.from_array(np.array(0.01, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
        numpy_helper.from_array(rng.integers(-127, 127, (64, 64)).astype(np.int8), "w"),
    ]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "eight", *ports, inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
