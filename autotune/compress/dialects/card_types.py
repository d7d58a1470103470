"""Element types of a strongly typed graph: each layer in the type that its choice computes in, casts at the borders.

What lies between layers follows: a node that is safe in 16 bit is computed in 16 bit as soon as one of its inputs is
there (bfloat16 where both 16-bit types meet: it has the range). Sums over many values, powers, logarithms and
everything that is not known to be safe stay float32, and so does a node with a constant that the type cannot hold.

A tensor that is computed in 16 bit is called `<its name>:float16` or `:bfloat16`; its own name always means float32 and
exists where something reads that: graph outputs and the bodies of If and Loop need no special care.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from autotune.compress.plan import Plan, in_order, make_node, reads, rewired
from autotune.compress.shapes import infer_types

Real = Literal["float32", "float16", "bfloat16"]
Emit = Callable[["Typed", onnx.NodeProto], None]
Read = Callable[["Typed"], str]  # the name of a tensor that is made where it is read first

ELEMENT: dict[Real, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
HALF_MAX = float(np.finfo(np.float16).max)
_HALF_TINY = float(np.finfo(np.float16).smallest_subnormal) / 2

# fmt: off
MOVING = frozenset([
    "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
])
# Computed in 16 bit by everybody who computes layers in 16 bit; what they add up, they add up in float32.
SAFE = MOVING | frozenset([
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Conv", "ConvTranspose", "Div", "Elu", "Erf", "Gelu",
    "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LayerNormalization", "LeakyRelu",
    "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Relu", "Resize", "RMSNormalization", "Selu", "Sigmoid",
    "Softmax", "Softsign", "Sub", "Sum", "Tanh", "ThresholdedRelu",
])
# fmt: on
_ANY_TYPE = frozenset({"Shape", "Size", "Cast"})  # read floats of any type as they are
_KEPT = {"Resize": (2,)}  # inputs that are float32 whatever the node computes in: scales


@dataclass
class Typed:
    """The graph being written anew, node by node. `emit` writes the nodes of layers; everything else is done here."""

    plan: Plan
    emit: Mapping[str, Emit]  # node -> what writes it
    safe: Mapping[Real, frozenset[str]]  # 16-bit type -> operators that may follow into it
    home: dict[str, Real] = field(default_factory=dict)  # tensor that was float32 -> the type it is computed in
    # (node, tensor) -> what gives the name to be read in its place, where the node is computed in float16
    replaced: Mapping[tuple[str, str], Read] = field(default_factory=dict)
    _unknown: set[str] = field(default_factory=set)
    _wide: set[str] = field(default_factory=set)  # float32 tensors that may hold what float16 cannot
    _floats: set[str] = field(default_factory=set)
    # constant -> (whether a number of it is beyond float16, whether float16 cannot hold it)
    _constants: dict[str, tuple[bool, bool]] = field(default_factory=dict)

    def run(self) -> None:
        """Write every node of the plan anew."""
        plan = self.plan
        given = {*plan.tensors, *(value.name for value in plan.source.inputs)}
        before = in_order(plan.nodes, given)
        types = infer_types(before, plan.tensors, plan.source.inputs, plan.source.outputs, plan.opsets)
        self._floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self._unknown = {name for node in before for name in node.output if name and name not in types}
        self.home = dict.fromkeys(self._floats, "float32")
        plan.nodes = []
        for node in before:
            for name in set(reads(node)) - set(node.input):  # read by a body: by its own name, so in float32
                self.read(name, "float32")
            if node.name in self.emit:
                self.emit[node.name](self, node)
            else:
                self._glue(node)
        for name in plan.output_names():
            self.read(name, "float32")

    def read(self, tensor: str, kind: Real) -> str:
        """Name of `tensor` in `kind`; a cast (or the converted constant) is added the first time it is needed."""
        if tensor not in self._floats:
            return tensor
        target = named(tensor, kind)
        if tensor in self.plan.tensors:
            if kind != "float32" and target not in self.plan.tensors:
                self.plan.tensors.put(target, narrowed(self.plan.tensors.array(tensor), kind))
            return target
        source = self.home[tensor]
        if source != kind and target not in self.plan.made:
            self.plan.made.add(target)
            cast = make_node("Cast", [named(tensor, source)], [target], f"{tensor}/to-{kind}", to=ELEMENT[kind])
            self.plan.nodes.append(cast)
        return target

    def write(self, node: onnx.NodeProto, kind: Real, inputs: Mapping[int, str] = {}) -> None:
        """Add `node` computed in `kind`; `inputs` are those that are there in the right type already."""
        made = rewired(node, {})
        kept = _KEPT.get(node.op_type, ())
        made.input[:] = [
            inputs[i] if i in inputs else self.read(name, "float32" if i in kept else kind)
            for i, name in enumerate(node.input)
        ]
        made.output[:] = [self._written(name, kind) for name in node.output]
        self.plan.nodes.append(made)

    def _written(self, name: str, kind: Real) -> str:
        if name not in self._floats:
            return name
        self.home[name] = kind
        return named(name, kind)

    def _glue(self, node: onnx.NodeProto) -> None:
        if node.domain == "" and node.op_type in _ANY_TYPE:
            source = node.input[0]
            made = rewired(node, {source: named(source, self.home[source])} if source in self.home else {})
            self.plan.nodes.append(made)
            return
        kind = self._follows(node)
        if kind == "float32" and self._spreads(node):
            self._wide.update(node.output)
        ready = {
            i: self.replaced[node.name, tensor](self)
            for i, tensor in enumerate(node.input)
            if kind == "float16" and (node.name, tensor) in self.replaced
        }
        self.write(node, kind, ready)

    def _follows(self, node: onnx.NodeProto) -> Real:
        """The type that a node between layers is computed in."""
        inputs = [name for name in node.input if name in self.home and name not in self.plan.tensors]
        there = {self.home[name] for name in inputs}
        kind: Real = "bfloat16" if "bfloat16" in there else "float16" if "float16" in there else "float32"
        if kind == "float32" or node.domain != "" or node.op_type not in self.safe[kind]:
            return "float32"
        if any(name in self._unknown for name in (*node.input, *node.output)):
            return "float32"
        if kind == "float16" and (self._wide & set(inputs) or any(self._lost(name) for name in node.input)):
            return "float32"
        return kind

    def _lost(self, name: str) -> bool:
        """Whether `name` is a constant that float16 cannot hold: too large, or a single number that becomes 0."""
        if name not in self._constants:
            self._constants[name] = (False, False)
            if name in self.plan.tensors and name in self._floats:
                size = np.abs(self.plan.tensors.array(name))
                large = bool((np.isfinite(size) & (size > HALF_MAX)).any())
                small = size.size == 1 and 0 < float(size.reshape(())) <= _HALF_TINY
                self._constants[name] = (large, large or small)
        return self._constants[name][1]

    def _spreads(self, node: onnx.NodeProto) -> bool:
        """Whether a float32 node may hand on numbers that float16 cannot hold, as the masks of attention do."""
        large = any(self._lost(name) and self._constants[name][0] for name in node.input)
        return node.op_type in SAFE and (large or bool(self._wide & set(node.input)))


def named(tensor: str, kind: Real) -> str:
    """Name of a tensor in a type."""
    return tensor if kind == "float32" else f"{tensor}:{kind}"


def narrowed(values: np.ndarray, kind: Real) -> np.ndarray:
    """float32 values in another type, rounded to nearest even. What float16 cannot hold becomes its largest number;
    infinity stays."""
    if kind == "float32":
        return values
    if kind == "bfloat16":
        return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16)
    clipped = np.where(np.isfinite(values), np.clip(values, -HALF_MAX, HALF_MAX), values)
    return clipped.astype(np.float16)
