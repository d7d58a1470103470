"""The runtimes of a card, on a real one: the conformance suite, and what is theirs alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.recover.runtime import TorchCuda
from hwprofiles.runtimes.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda
from hwprofiles.runtimes.protocol import Runtime
from hwprofiles.target import Target
from tests.device.gpu.cards import ORT_CUDA_PYTHON, OnACard, need_ort_cuda, need_torch_cuda, without

pytestmark = pytest.mark.gpu


class Resident(OnACard):
    """Runtimes that run the ONNX file itself, with inputs and outputs on the card."""

    graph: ClassVar[bool]

    def test_memory_and_clocks_are_read_and_the_graph_is_as_asked(self, tmp_path: Path) -> None:
        found = self.measured(tmp_path)
        card = found.accelerator
        assert card is not None and found.conditions is not None
        assert card.clock_hz is not None and card.memory.process is not None
        assert found.conditions.cuda_graph is self.graph

    def test_out_of_the_cards_memory_is_typed_and_the_next_model_runs(self, tmp_path: Path) -> None:
        huge = tmp_path / "huge.onnx"
        size = 400_000  # squared, in float32: 640 GB
        nodes = [helper.make_node("MatMul", ["x", "t"], ["y"]), helper.make_node("Transpose", ["x"], ["t"])][::-1]
        graph = helper.make_graph(
            nodes,
            "huge",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "n"])],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), huge)
        with self._open(tmp_path) as device:
            failure = self._failure(device, huge, {"x": np.ones((size, 1), np.float32)})
            assert failure.kind == "oom" and "\n" not in failure.message
            x = np.ones((2, 8), np.float32)
            assert len(list(device.infer(self._model(tmp_path), [{"x": x}]))) == 1


class TestOnnxRuntimeCuda(Resident):
    runtime: ClassVar[Runtime] = OnnxRuntimeCuda()
    target = Target(
        name="card", runtime="onnxruntime-cuda", dialect="ort-cuda", provider=PROVIDER, python=ORT_CUDA_PYTHON
    )
    graph = True

    @pytest.fixture(autouse=True)
    def needs(self) -> None:
        need_ort_cuda()


class TestTorchCuda(Resident):
    runtime: ClassVar[Runtime] = TorchCuda()
    target = Target(name="card", runtime="torch-cuda", provider="cuda")
    oldest = (3, 11)
    graph = False

    @pytest.fixture(autouse=True)
    def needs(self) -> None:
        need_torch_cuda()


class TestTorchCudaGraph(TestTorchCuda):
    target = Target(name="card", runtime="torch-cuda", provider="cuda", options={"cuda_graph": True})
    graph = True


class TestTorchCudaCompiled(TestTorchCuda):
    target = Target(name="card", runtime="torch-cuda", provider="cuda", options={"mode": "compiled"})

    @pytest.fixture(autouse=True)
    def needs(self) -> None:
        need_torch_cuda()
        if why := without(sys.executable, "import triton; print(True)"):
            pytest.skip(f"torch cannot compile for the card: {sys.executable} has no triton: {why}")

    def test_compiled_answers_as_eager_does(self, tmp_path: Path) -> None:
        """For two shapes in one process, the first of them again."""
        feeds = [{"x": np.linspace(-1, 1, rows * 8, dtype=np.float32).reshape(rows, 8)} for rows in (2, 5, 2)]
        model = self._model(tmp_path)
        with self._open(tmp_path) as device:
            compiled = list(device.infer(model, feeds))
            assert "compiled" in device.fingerprint.runtime_build
        with self._open(tmp_path, options={}) as device:
            eager = list(device.infer(model, feeds))
            assert "eager" in device.fingerprint.runtime_build
        for ours, theirs in zip(compiled, eager, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=1e-4)


class TestTorchCudaCompiledGraph(TestTorchCudaCompiled):
    target = Target(
        name="card", runtime="torch-cuda", provider="cuda", options={"mode": "compiled", "cuda_graph": True}
    )
    graph = True
