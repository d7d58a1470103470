"""Generated graphs for structured pruning, each with random weights that have no value twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from tests.unit import zoo


@dataclass
class Net:
    """A graph under construction; every method returns the name of its output."""

    seed: int = 0
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def op(self, op: str, *inputs: str, name: str = "", **attributes: object) -> str:
        out = f"{name or op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=name or out, **attributes))
        return out

    def several(self, op: str, inputs: Sequence[str], count: int, **attributes: object) -> list[str]:
        outs = [f"{op}_{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outs, name=outs[0], **attributes))
        return outs

    def const(self, value: np.ndarray | np.generic | Sequence[int] | int, name: str = "") -> str:
        name = name or f"const_{len(self.constants)}"
        self.constants[name] = np.asarray(value, None if isinstance(value, (np.ndarray, np.generic)) else np.int64)
        return name

    def random(self, *shape: int, name: str = "", positive: bool = False) -> str:
        self.seed += 1
        value = zoo.weight(*shape, seed=self.seed)
        return self.const(np.abs(value) + np.float32(0.5) if positive else value, name)

    def conv(
        self, x: str, inputs: int, outputs: int, name: str, *, kernel: int = 1, group: int = 1, bias: bool = True
    ) -> str:
        weight = self.random(outputs, inputs // group, kernel, kernel, name=f"{name}.weight")
        extra = [self.random(outputs, name=f"{name}.bias")] if bias else []
        return self.op("Conv", x, weight, *extra, name=name, group=group, pads=[kernel // 2] * 4)

    def linear(self, x: str, inputs: int, outputs: int, name: str, *, bias: bool = True) -> str:
        out = self.op("MatMul", x, self.random(inputs, outputs, name=f"{name}.weight"), name=name)
        return self.op("Add", out, self.random(outputs, name=f"{name}.bias")) if bias else out

    def gemm(self, x: str, inputs: int, outputs: int, name: str) -> str:
        weight, bias = self.random(outputs, inputs, name=f"{name}.weight"), self.random(outputs, name=f"{name}.bias")
        return self.op("Gemm", x, weight, bias, name=name, transB=1)

    def model(self, out: str, *shape: int | str) -> onnx.ModelProto:
        """The model from x of `shape` to y."""
        nodes = [*self.nodes, zoo.node("Identity", [out], ["y"])]
        return zoo.model_of(nodes, [zoo.floats("x", *shape)], ["y"], self.constants, self.opset)


IMAGE = ("batch", 3, 6, 6)
FREE_IMAGE = ("batch", 3, "height", "height")
TOKENS = ("batch", "seq", 24)


def residual() -> onnx.ModelProto:
    """A stem, two blocks x + f(x) with BatchNormalization, a pool and a classifier."""
    net = Net()
    x = net.op("Relu", net.conv("x", 3, 16, "stem", kernel=3))
    for block in ("one", "two"):
        h = net.op("Relu", net.conv(x, 16, 12, f"{block}.first", kernel=3))
        h = net.conv(h, 12, 16, f"{block}.second")
        x = net.op("Relu", net.op("Add", x, h, name=f"{block}.sum"))
    norm = [net.random(16), net.random(16), net.random(16), net.random(16, positive=True)]
    x = net.op("BatchNormalization", x, *norm)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.gemm(x, 16, 5, "head"), *FREE_IMAGE)


def depthwise() -> onnx.ModelProto:
    """Expand, depthwise, project, as MobileNet does, with a depth multiplier in a second depthwise convolution."""
    net = Net()
    x = net.op("Clip", net.conv("x", 3, 16, "expand"), net.const(np.float32(0)), net.const(np.float32(6)))
    x = net.op("HardSwish", net.conv(x, 16, 16, "deep", kernel=3, group=16))
    x = net.conv(x, 16, 32, "double", kernel=3, group=16, bias=False)
    return net.model(net.conv(x, 32, 4, "project"), *IMAGE)


def grouped(groups: int) -> onnx.ModelProto:
    """A grouped convolution between two plain ones."""
    net = Net()
    x = net.op("Relu", net.conv("x", 3, 16, "before"))
    x = net.op("Relu", net.conv(x, 16, 32, "grouped", kernel=3, group=groups))
    return net.model(net.conv(x, 32, 4, "after"), *IMAGE)


def concat() -> onnx.ModelProto:
    """DenseNet: what each layer makes is appended, then normalised and read by all that follow; one sum across."""
    net = Net()
    first = net.conv("x", 3, 8, "first")
    second = net.conv(net.op("Relu", first), 8, 12, "second", kernel=3)
    both = net.op("Concat", first, second, axis=1)
    norm = [net.random(20), net.random(20), net.random(20), net.random(20, positive=True)]
    both = net.op("Relu", net.op("BatchNormalization", both, *norm))
    third = net.conv(both, 20, 20, "third")
    return net.model(net.conv(net.op("Add", third, both), 20, 4, "last"), *IMAGE)


def split() -> onnx.ModelProto:
    """A gated unit: two halves are multiplied; then two unequal parts are read by different layers."""
    net = Net()
    sizes = [] if net.opset < 13 else [net.const([16, 16])]
    left, right = net.several("Split", [net.conv("x", 3, 32, "both"), *sizes], 2, axis=1)
    x = net.op("Mul", left, net.op("Sigmoid", right))
    few, many = net.several("Split", [net.conv(x, 16, 24, "parts"), net.const([8, 16])], 2, axis=1)
    out = net.op("Add", net.conv(few, 8, 4, "few"), net.conv(many, 16, 4, "many"))
    return net.model(out, *IMAGE)


def slices() -> onnx.ModelProto:
    """Two halves by Slice, one of them read twice."""
    net = Net()
    x = net.conv("x", 3, 24, "whole")
    low = net.op("Slice", x, net.const([0]), net.const([10]), net.const([1]))
    high = net.op("Slice", x, net.const([10]), net.const([2**63 - 1]), net.const([1]))
    shuffled = net.op("Gather", high, net.const([3, 1, 0, 2, 4, 5, 7, 6, 9, 8, 13, 12, 11, 10]), axis=1)
    out = net.op("Add", net.conv(low, 10, 4, "low"), net.conv(shuffled, 14, 4, "high"))
    return net.model(net.op("Add", out, net.conv(high, 14, 4, "again")), *IMAGE)


def flatten(kind: str) -> onnx.ModelProto:
    """Channels and places become one axis in front of a Gemm, in the ways exporters write that."""
    net = Net()
    x = net.op("Relu", net.conv("x", 3, 16, "conv", kernel=3))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    if kind == "flatten":
        x = net.op("Flatten", x)
    elif kind == "last":  # channels last: one channel is every 16th number
        x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.const([-1, 144]))
    elif kind == "computed":
        batch = net.op("Gather", net.op("Shape", x), net.const([0]))
        x = net.op("Reshape", x, net.op("Concat", batch, net.const([-1]), axis=0))
    else:
        x = net.op("Reshape", x, net.const([0, 144]))
    x = net.op("Relu", net.gemm(x, 144, 24, "hidden"))
    return net.model(net.gemm(x, 24, 4, "head"), *IMAGE)


def squeeze_excite() -> onnx.ModelProto:
    """A gate for each channel, from the means of all, in convolutions and with biases behind a Reshape."""
    net = Net()
    x = net.op("Relu", net.conv("x", 3, 16, "stem"))
    gate = net.op("ReduceMean", x, axes=[2, 3], keepdims=1)
    gate = net.conv(gate, 16, 8, "squeeze", bias=False)
    gate = net.op("Relu", net.op("Add", gate, net.op("Reshape", net.random(8), net.const([1, 8, 1, 1]))))
    gate = net.op("HardSigmoid", net.conv(gate, 8, 16, "excite"))
    return net.model(net.conv(net.op("Mul", x, gate), 16, 4, "last"), *FREE_IMAGE)


def upsampling() -> onnx.ModelProto:
    """ConvTranspose (plain and by channel), Resize by scales and by sizes, Pad, pixel shuffle."""
    net = Net()
    x = net.conv("x", 3, 16, "stem")
    x = net.op(
        "ConvTranspose", x, net.random(16, 12, 2, 2, name="up.weight"), net.random(12), name="up", strides=[2, 2]
    )
    x = net.op("ConvTranspose", x, net.random(12, 1, 2, 2, name="own.weight"), name="own", group=12)
    x = net.op("Resize", x, "", net.const(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    sizes = net.op(
        "Concat", net.op("Slice", net.op("Shape", x), net.const([0]), net.const([2])), net.const([9, 9]), axis=0
    )
    x = net.op("Resize", x, "", "", sizes, mode="linear")
    x = net.op("Pad", x, net.const([0, 0, 1, 1, 0, 0, 1, 1]))
    x = net.op("DepthToSpace", net.conv(x, 12, 16, "shuffle"), blocksize=2)
    return net.model(net.conv(x, 4, 2, "last"), *IMAGE)


def group_norm() -> onnx.ModelProto:
    """GroupNormalization as PyTorch writes it, InstanceNormalization, and a channel shuffle."""
    net = Net()
    x = net.conv("x", 3, 16, "stem")
    grouped = net.op("Reshape", x, net.const([0, 4, -1]))
    grouped = net.op(
        "InstanceNormalization", grouped, net.const(np.ones(4, np.float32)), net.const(np.zeros(4, np.float32))
    )
    x = net.op("Reshape", grouped, net.op("Shape", x))
    x = net.op("Add", net.op("Mul", x, net.random(16, 1, 1)), net.random(16, 1, 1))
    x = net.op("InstanceNormalization", net.conv(x, 16, 12, "middle"), net.random(12), net.random(12))
    x = net.op("Transpose", net.op("Reshape", x, net.const([0, 3, 4, 6, 6])), perm=[0, 2, 1, 3, 4])
    x = net.op("Reshape", x, net.const([0, 12, 6, 6]))
    return net.model(net.conv(x, 12, 4, "last"), *IMAGE)


def feed_forward(gated: bool) -> onnx.ModelProto:
    """Two blocks x + FFN(LayerNorm(x)), plain with Gelu or gated as in LLaMA."""
    net = Net(opset=20)
    x = net.linear("x", 24, 24, "embed")
    for block in ("one", "two"):
        h = net.op("LayerNormalization", x, net.random(24), net.random(24), axis=-1)
        up = net.linear(h, 24, 48, f"{block}.up")
        if gated:
            gate = net.linear(h, 24, 48, f"{block}.gate", bias=False)
            up = net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), up)
        else:
            up = net.op("Gelu", up)
        x = net.op("Add", net.linear(up, 48, 24, f"{block}.down"), x, name=f"{block}.sum")
    return net.model(net.linear(x, 24, 6, "head"), *TOKENS)


def attention(shapes: str = "zeros", *, heads: int = 6, groups: int = 6, repeat: str = "expand") -> onnx.ModelProto:
    """x + attention(x) with `heads` heads of size 4 and `groups` key-value heads. `shapes`: how the Reshapes to heads
    name their target ("zeros": [0, 0, h, d], "computed": from Shape, "seq": batch is -1)."""
    net = Net()
    size = 4
    sequence = net.op("Gather", net.op("Shape", "x"), net.const([1]))
    batch = net.op("Gather", net.op("Shape", "x"), net.const([0]))

    def target(*tail: int) -> str:
        if shapes == "zeros":
            return net.const([0, 0, *tail])
        if shapes == "computed":
            return net.op("Concat", batch, sequence, *(net.const([n]) for n in tail), axis=0)
        return net.op("Concat", net.const([-1]), sequence, net.const(tail), axis=0)

    def to_heads(name: str, count: int, perm: list[int]) -> str:
        x = net.op("Reshape", net.linear("x", 24, count * size, name), target(count, size))
        return net.op("Transpose", x, perm=perm)

    def shared(x: str, *tail: str) -> str:
        """Each key-value head for `heads / groups` queries."""
        times = heads // groups
        if times == 1:
            return x
        if repeat == "gather":
            return net.op("Gather", x, net.const([i // times for i in range(heads)]), axis=1)
        wide = net.op("Unsqueeze", x, net.const([2]))
        wide = net.op("Expand", wide, net.op("Concat", batch, net.const([groups, times]), *tail, axis=0))
        return net.op("Reshape", wide, net.op("Concat", batch, net.const([heads]), *tail, axis=0))

    q = to_heads("q", heads, [0, 2, 1, 3])
    k = shared(to_heads("k", groups, [0, 2, 3, 1]), net.const([size]), sequence)
    v = shared(to_heads("v", groups, [0, 2, 1, 3]), sequence, net.const([size]))
    scores = net.op("Softmax", net.op("Div", net.op("MatMul", q, k), net.const(np.float32(2))), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    mixed = net.op("Reshape", mixed, target(heads * size))
    return net.model(net.op("Add", "x", net.linear(mixed, heads * size, 24, "out")), *TOKENS)


def fused_attention(order: str) -> onnx.ModelProto:
    """Queries, keys and values from one product; `order` says how its outputs are laid out and taken apart."""
    net = Net()
    x = net.linear("x", 24, 72, "qkv")
    if order == "split":
        parts = net.several("Split", [x, net.const([24, 24, 24])], 3, axis=-1)
        q, k, v = (net.op("Reshape", part, net.const([0, 0, 6, 4])) for part in parts)
        q, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    elif order == "three first":
        x = net.op("Transpose", net.op("Reshape", x, net.const([0, 0, 3, 6, 4])), perm=[2, 0, 3, 1, 4])
        q, k, v = (net.op("Gather", x, net.const(i), axis=0) for i in range(3))
        k = net.op("Transpose", k, perm=[0, 2, 1, 3])
    else:
        x = net.op("Reshape", x, net.const([0, 0, 6, 12]))
        parts = net.several("Split", [x, net.const([4, 4, 4])], 3, axis=-1)
        q, k, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in parts)
        k = net.op("Transpose", k, perm=[0, 2, 1, 3])
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1])), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    mixed = net.op("Reshape", mixed, net.const([0, 0, 24]))
    return net.model(net.linear(mixed, 24, 24, "out"), *TOKENS)


def shared_weights() -> onnx.ModelProto:
    """One convolution used twice, and one bias and one slope that several layers share."""
    net = Net()
    bias, slope = net.random(16, name="common.bias"), net.random(16, 1, 1, name="slope")
    x = net.op("Conv", "x", net.random(16, 3, 1, 1, name="a.weight"), bias, name="a")
    twice = net.random(16, 16, 1, 1, name="twice.weight")
    x = net.op("PRelu", net.op("Conv", x, twice, bias, name="twice.0"), slope)
    x = net.op("PRelu", net.op("Conv", x, twice, bias, name="twice.1"), slope)
    x = net.op("PRelu", net.op("Conv", x, net.random(16, 16, 1, 1, name="b.weight"), bias, name="b"), slope)
    return net.model(net.conv(x, 16, 4, "last"), *IMAGE)


EXACT = {
    "residual": residual,
    "depthwise": depthwise,
    "grouped-2": lambda: grouped(2),
    "grouped-8": lambda: grouped(8),
    "concat": concat,
    "split": split,
    "slices": slices,
    **{f"flatten-{kind}": (lambda kind=kind: flatten(kind)) for kind in ("flatten", "zero", "computed", "last")},
    "squeeze-excite": squeeze_excite,
    "upsampling": upsampling,
    "group-norm": group_norm,
    **{f"attention-{kind}": (lambda kind=kind: attention(kind)) for kind in ("zeros", "computed", "seq")},
    "gqa-expand": lambda: attention("computed", groups=3),
    "gqa-gather": lambda: attention("computed", groups=3, repeat="gather"),
    **{f"fused-{o}": (lambda order=o: fused_attention(order)) for o in ("split", "three first", "heads first")},
    "shared": shared_weights,
    "ffn": lambda: feed_forward(False),
    "ffn-gated": lambda: feed_forward(True),
}
