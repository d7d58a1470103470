"""A graph written down node by node, in the form that its operators have at the chosen opset; and inputs for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

Feeds = dict[str, np.ndarray]

_INDICES = 4  # random integer inputs are below: every table has more rows


class Graph:
    """Nodes, constants and inputs of one model. Weights are normal, scaled so that activations stay near 1."""

    def __init__(self, opset: int, **inputs: Sequence[int | str]) -> None:
        """`inputs`: name -> shape, axes that vary by name. Inputs that are called `ids` hold integers."""
        self.opset = opset
        self._inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "ids" else TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}

    # -- constants

    def weight(self, name: str, *shape: int, fan_in: int | None = None) -> str:
        """A weight of `shape`; `fan_in` (as in torch's layout, by default all axes but the first) sets its scale."""
        reads = int(np.prod(shape[1:])) if fan_in is None else fan_in
        draw = np.random.default_rng([*name.encode(), *shape])
        return self.constant(name, (draw.standard_normal(shape) / np.sqrt(max(1, reads))).astype(np.float32))

    def constant(self, name: str, array: np.ndarray) -> str:
        """Any other constant; the same name means the same constant."""
        self._constants[name] = array
        return name

    def scalar(self, name: str, value: float) -> str:
        """One float32."""
        return self.constant(name, np.array(value, np.float32))

    def integers(self, name: str, *values: int) -> str:
        """A vector of int64."""
        return self.constant(name, np.array(values, np.int64))

    # -- nodes

    def add(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node with one output, whose name it returns."""
        label = name or f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [f"{label}.out"], name=label, **attributes))
        return f"{label}.out"

    def conv(self, x: str, name: str, outputs: int, inputs: int, *kernel: int, bias: bool = True, **window: Any) -> str:
        """A convolution; `inputs` counts channels per group."""
        reads = [x, self.weight(f"{name}.weight", outputs, inputs, *kernel)]
        if bias:
            reads.append(self.weight(f"{name}.bias", outputs))
        return self.add("Conv", *reads, name=name, kernel_shape=list(kernel), **window)

    def linear(self, x: str, name: str, inputs: int, outputs: int, *, bias: bool = True) -> str:
        """MatMul and Add, as torch's Linear is exported for inputs with more than two axes."""
        y = self.add("MatMul", x, self.weight(f"{name}.weight", inputs, outputs, fan_in=inputs), name=name)
        return self.add("Add", y, self.weight(f"{name}.bias", outputs)) if bias else y

    def gemm(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """Gemm with the weight as torch stores it."""
        weights = self.weight(f"{name}.weight", outputs, inputs), self.weight(f"{name}.bias", outputs)
        return self.add("Gemm", x, *weights, name=name, transB=1)

    def batch_norm(self, x: str, name: str, channels: int) -> str:
        """BatchNormalization with statistics that are no identity."""
        draw = np.random.default_rng([*name.encode(), channels])
        values = {"scale": draw.uniform(0.5, 1.5, channels), "bias": draw.normal(0, 0.2, channels),
                  "mean": draw.normal(0, 0.2, channels), "var": draw.uniform(0.5, 1.5, channels)}  # fmt: skip
        made = [self.constant(f"{name}.{part}", value.astype(np.float32)) for part, value in values.items()]
        return self.add("BatchNormalization", x, *made, name=name, epsilon=1e-5)

    def clip(self, x: str, low: float, high: float) -> str:
        bounds = self.scalar(f"clip{low}", low), self.scalar(f"clip{high}", high)
        return self.add("Clip", x, *bounds)

    def split(self, x: str, axis: int, *sizes: int) -> tuple[str, ...]:
        """Split; its sizes are an attribute before opset 13."""
        label = f"split{len(self._nodes)}"
        outputs = [f"{label}.{index}" for index in range(len(sizes))]
        if self.opset < 13:
            made = helper.make_node("Split", [x], outputs, name=label, axis=axis, split=list(sizes))
        else:
            made = helper.make_node(
                "Split", [x, self.integers(f"{label}.sizes", *sizes)], outputs, name=label, axis=axis
            )
        self._nodes.append(made)
        return tuple(outputs)

    def unsqueeze(self, x: str, *axes: int) -> str:
        """Unsqueeze; its axes are an attribute before opset 13."""
        if self.opset < 13:
            return self.add("Unsqueeze", x, axes=list(axes))
        return self.add("Unsqueeze", x, self.integers(f"axes{axes}", *axes))

    def mean(self, x: str, *axes: int, keep: bool = True) -> str:
        """ReduceMean; its axes are an attribute before opset 18."""
        if self.opset < 18:
            return self.add("ReduceMean", x, axes=list(axes), keepdims=int(keep))
        return self.add("ReduceMean", x, self.integers(f"axes{axes}", *axes), keepdims=int(keep))

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps an axis, -1 is found out."""
        return self.add("Reshape", x, self.integers(f"shape{shape}", *shape))

    def size(self, x: str, axis: int) -> str:
        """One entry of the shape as a vector of one number, the way exporters write it."""
        picked = self.add(
            "Gather", self.add("Shape", x), self.constant(f"index{axis}", np.array(axis, np.int64)), axis=0
        )
        return self.unsqueeze(picked, 0)

    def layer_norm(self, x: str, name: str, width: int, *, fused: bool) -> str:
        """LayerNormalization (from opset 17), or the nodes that older exports have in its place."""
        scale = self.constant(f"{name}.weight", np.linspace(0.5, 1.5, width, dtype=np.float32))
        bias = self.constant(f"{name}.bias", np.linspace(-0.2, 0.2, width, dtype=np.float32))
        if fused:
            return self.add("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=1e-5)
        centred = self.add("Sub", x, self.mean(x, -1))
        square = self.add("Pow", centred, self.scalar("two", 2))
        spread = self.add("Sqrt", self.add("Add", self.mean(square, -1), self.scalar("epsilon", 1e-5)))
        return self.add("Add", self.add("Mul", self.add("Div", centred, spread), scale), bias)

    def rms_norm(self, x: str, name: str, width: int) -> str:
        """Root mean square normalisation, as decoders are exported."""
        square = self.add("Pow", x, self.scalar("two", 2))
        spread = self.add("Sqrt", self.add("Add", self.mean(square, -1), self.scalar("epsilon", 1e-5)))
        scale = self.constant(f"{name}.weight", np.linspace(0.5, 1.5, width, dtype=np.float32))
        return self.add("Mul", self.add("Div", x, spread), scale)

    # -- the model

    def model(self, output: str, shape: Sequence[int | str] | None = None) -> onnx.ModelProto:
        """The whole. `shape` is the output's, where the inference of shapes does not find it."""
        graph = helper.make_graph(
            self._nodes,
            "zoo",
            self._inputs,
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, name) for name, array in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        del model.graph.value_info[:]
        return model


def feeds(model: onnx.ModelProto, *, sizes: Mapping[str, int] = {}, size: int = 2, seed: int = 0) -> Feeds:
    """Random inputs: normal floats, indices below 4. Axes that vary have `sizes[name]` elements, by default `size`."""
    draw = np.random.default_rng(seed)
    made: Feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [
            dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param, size) for dim in kind.shape.dim
        ]
        if kind.elem_type == TensorProto.INT64:
            made[value.name] = draw.integers(0, _INDICES, shape)
        else:
            made[value.name] = draw.standard_normal(shape).astype(np.float32)
    return made
