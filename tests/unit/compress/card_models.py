"""Models in the dialects of cards, and what stands in their artifacts.

Artifacts run in ONNX Runtime as they are written, without optimisation: its optimiser is made for other graphs (it
rounds the biases of fp8 convolutions, for one).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.calibration import Range
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.tensorrt import TensorRt
from autotune.compress.ingest import load_model
from autotune.compress.zoo.graph import Graph
from autotune.recipe import Recipe
from autotune.techniques.quantize import Quantize

Feeds = dict[str, np.ndarray]


class Made:
    """A model in a dialect; all activations have the range [-`peak`, `peak`]."""

    def __init__(self, model: onnx.ModelProto, dialect: Dialect | None = None, peak: float = 4.0) -> None:
        self.ingested = load_model(model)
        self.layers = {layer.name: layer for layer in self.ingested.inspection.layers}
        self.assembler = Assembler(
            self.ingested.model, self.layers.values(), dialect or TensorRt(), {"quantize": Quantize()}
        )
        wanted = self.assembler.calibration_tensors(Recipe())
        self.assembler.ranges[Recipe().digest] = {name: Range(-peak / 2, peak) for name in wanted}

    def artifact(self, decisions: dict[str, str]) -> onnx.ModelProto:
        model = onnx.load_from_string(self.assembler.assemble(Recipe({"quantize": decisions})))
        onnx.checker.check_model(model, full_check=True)
        return model

    def uniform(self, choice: str) -> onnx.ModelProto:
        found = {name: choice for name, layer in self.layers.items() if self.assembler.offers(layer, choice)}
        assert found, f"no layer takes {choice}"
        return self.artifact(found)


def run(model: onnx.ModelProto, feeds: Feeds) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feeds)
    assert isinstance(found, np.ndarray)
    return found


def constants(model: onnx.ModelProto) -> Feeds:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def readers(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if tensor in node.input]


def producer(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if tensor in node.output)


def product(inputs: int = 64, outputs: int = 32) -> onnx.ModelProto:
    """One Gemm, its weight as torch stores it."""
    g = Graph(17, x=(5, inputs))
    return g.model(g.gemm("x", "fc", inputs, outputs))


def chain(*names: str) -> onnx.ModelProto:
    """Products with a Relu between them."""
    g = Graph(17, x=("batch", 32))
    x = "x"
    for name in names:
        x = g.add("Relu", g.linear(x, name, 32, 32))
    return g.model(x)
