"""Convolutional models of the zoo. Their batch, and where nothing prevents it their image, may have any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from autotune.compress.zoo.graph import Graph

_SAME: dict[str, Any] = {"pads": [1, 1, 1, 1]}


def residual(opset: int) -> onnx.ModelProto:
    """Two basic blocks of a ResNet, the second with a projected short cut, and a classifier."""
    g = Graph(opset, x=("batch", 3, 12, 12))
    x = g.add("Relu", g.batch_norm(g.conv("x", "stem", 16, 3, 3, 3, bias=False, **_SAME), "stem.norm", 16))
    h = g.add("Relu", g.batch_norm(g.conv(x, "one.first", 16, 16, 3, 3, bias=False, **_SAME), "one.norm1", 16))
    h = g.batch_norm(g.conv(h, "one.second", 16, 16, 3, 3, bias=False, **_SAME), "one.norm2", 16)
    x = g.add("Relu", g.add("Add", h, x))
    h = g.add("Relu", g.batch_norm(g.conv(x, "two.first", 32, 16, 3, 3, strides=[2, 2], **_SAME), "two.norm1", 32))
    h = g.batch_norm(g.conv(h, "two.second", 32, 32, 3, 3, **_SAME), "two.norm2", 32)
    short = g.batch_norm(g.conv(x, "two.short", 32, 16, 1, 1, strides=[2, 2]), "two.norm3", 32)
    x = g.add("Relu", g.add("Add", h, short))
    return g.model(g.gemm(g.add("Flatten", g.add("GlobalAveragePool", x)), "head", 32, 8))


def depthwise_separable(opset: int) -> onnx.ModelProto:
    """An inverted bottleneck of a MobileNet: expand, filter each channel, project, add."""
    g = Graph(opset, x=("batch", 3, "height", "width"))
    x = g.clip(g.batch_norm(g.conv("x", "stem", 16, 3, 3, 3, strides=[2, 2], **_SAME), "stem.norm", 16), 0, 6)
    h = g.clip(g.conv(x, "expand", 48, 16, 1, 1), 0, 6)
    h = g.clip(g.batch_norm(g.conv(h, "depthwise", 48, 1, 3, 3, bias=False, group=48, **_SAME), "norm", 48), 0, 6)
    x = g.add("Add", g.conv(h, "project", 16, 48, 1, 1), x)
    return g.model(g.conv(x, "last", 24, 16, 1, 1))


def grouped(opset: int) -> onnx.ModelProto:
    """Grouped convolutions with a channel shuffle between them, as in a ShuffleNet."""
    g = Graph(opset, x=("batch", 16, 8, 8))
    h = g.add("Relu", g.conv("x", "first", 32, 4, 1, 1, group=4))
    h = g.add("Transpose", g.reshape(h, 0, 4, 8, 8, 8), perm=[0, 2, 1, 3, 4])
    h = g.add("Relu", g.conv(g.reshape(h, 0, 32, 8, 8), "second", 32, 8, 3, 3, group=4, **_SAME))
    return g.model(g.conv(h, "third", 16, 32, 1, 1))


def shuffled(opset: int) -> onnx.ModelProto:
    """Two units of a ShuffleNet V2: half of the channels pass, half are convolved, and both are interleaved."""
    g = Graph(opset, x=("batch", 3, 8, 8))
    x = g.add("Relu", g.conv("x", "enter", 32, 3, 3, 3, **_SAME))
    for unit in ("one", "two"):
        left, right = g.split(x, 1, 16, 16)
        h = g.add("Relu", g.conv(right, f"{unit}.in", 16, 16, 1, 1))
        h = g.batch_norm(g.conv(h, f"{unit}.deep", 16, 1, 3, 3, group=16, **_SAME), f"{unit}.norm", 16)
        h = g.add("Relu", g.conv(h, f"{unit}.out", 16, 16, 1, 1))
        x = _shuffle(g, g.add("Concat", left, h, axis=1), 2)
    x = g.add("Relu", g.conv(x, "last", 24, 32, 1, 1))
    return g.model(g.gemm(g.add("Flatten", g.add("GlobalAveragePool", x)), "head", 24, 8))


def shuffled_groups(opset: int) -> onnx.ModelProto:
    """A grouped convolution of two branches, one of them a part of the other, behind a channel shuffle; and another."""
    g = Graph(opset, x=("batch", 3, 8, 8))
    x = g.add("Relu", g.conv("x", "begin", 32, 3, 3, 3, **_SAME))
    left, right = g.split(x, 1, 16, 16)
    h = g.add("Relu", g.conv(right, "branch", 16, 16, 3, 3, **_SAME))
    x = g.add("Relu", g.conv(_shuffle(g, g.add("Concat", left, h, axis=1), 2), "first", 32, 16, 1, 1, group=2))
    x = g.conv(_shuffle(g, x, 4), "deep", 32, 1, 3, 3, group=32, **_SAME)
    x = g.add("Relu", g.conv(x, "second", 32, 8, 1, 1, group=4))
    return g.model(g.conv(x, "last", 16, 32, 1, 1))


def _shuffle(g: Graph, x: str, groups: int) -> str:
    """Interleave the groups of 32 channels."""
    x = g.add("Transpose", g.reshape(x, 0, groups, 32 // groups, 8, 8), perm=[0, 2, 1, 3, 4])
    return g.reshape(x, 0, 32, 8, 8)


def concat(opset: int) -> onnx.ModelProto:
    """Branches of different kernels, concatenated with their input, as in Inception and DenseNet."""
    g = Graph(opset, x=("batch", 3, "height", "width"))
    x = g.add("Relu", g.conv("x", "stem", 16, 3, 3, 3, **_SAME))
    one = g.add("Relu", g.conv(x, "one", 8, 16, 1, 1))
    three = g.add("Relu", g.conv(x, "three", 16, 16, 3, 3, **_SAME))
    pooled = g.add("MaxPool", x, kernel_shape=[3, 3], **_SAME)
    both = g.batch_norm(g.add("Concat", one, three, pooled, axis=1), "norm", 40)
    return g.model(g.conv(both, "last", 16, 40, 1, 1))


def split(opset: int) -> onnx.ModelProto:
    """Half of the channels go through a convolution and are put back beside the others, as in a YOLO's C2f block."""
    g = Graph(opset, x=("batch", 3, "height", "width"))
    x = g.add("Relu", g.conv("x", "stem", 32, 3, 3, 3, **_SAME))
    left, right = g.split(x, 1, 16, 16)
    inner = g.add("Relu", g.conv(right, "inner", 16, 16, 3, 3, **_SAME))
    joined = g.add("Concat", left, right, g.add("Add", inner, right), axis=1)
    return g.model(g.conv(joined, "last", 16, 48, 1, 1))


def hard_swish(opset: int) -> onnx.ModelProto:
    """Constant scales and shifts around convolutions, and hard-swish as exporters spell it."""
    g = Graph(opset, x=("batch", 3, "height", "width"))
    scale, shift = g.weight("scale", 1, 16, 1, 1, fan_in=1), g.weight("shift", 1, 16, 1, 1, fan_in=1)
    x = g.add("Add", g.add("Mul", g.conv("x", "stem", 16, 3, 3, 3, **_SAME), scale), shift)
    gate = g.clip(g.add("Add", x, g.scalar("three", 3)), 0, 6)
    x = g.add("Div", g.add("Mul", x, gate), g.scalar("six", 6))
    x = g.add("Relu", g.conv(g.add("Mul", x, g.scalar("half", 0.5)), "middle", 16, 16, 3, 3, **_SAME))
    return g.model(g.conv(g.add("Add", g.add("Mul", x, scale), shift), "last", 16, 16, 2, 2))


def squeeze_excite(opset: int) -> onnx.ModelProto:
    """A depthwise convolution whose channels are weighted by a gate that looks at all of them."""
    g = Graph(opset, x=("batch", 8, "height", "width"))
    x = g.add("Relu", g.conv("x", "expand", 32, 8, 1, 1))
    x = g.add("Relu", g.conv(x, "depthwise", 32, 1, 3, 3, group=32, **_SAME))
    gate = g.add("Relu", g.conv(g.add("GlobalAveragePool", x), "squeeze", 8, 32, 1, 1))
    gate = g.add("Sigmoid", g.conv(gate, "excite", 32, 8, 1, 1))
    return g.model(g.conv(g.add("Mul", x, gate), "project", 16, 32, 1, 1))


def flatten(opset: int) -> onnx.ModelProto:
    """A Gemm that reads all channels and places at once: each channel is a run of 16 columns of its weight."""
    g = Graph(opset, x=("batch", 3, 8, 8))
    x = g.add("Relu", g.conv("x", "first", 16, 3, 3, 3, **_SAME))
    x = g.add("MaxPool", g.add("Relu", g.conv(x, "second", 16, 16, 3, 3, **_SAME)), kernel_shape=[2, 2], strides=[2, 2])
    hidden = g.add("Relu", g.gemm(g.add("Flatten", x, axis=1), "hidden", 256, 32))
    return g.model(g.gemm(hidden, "head", 32, 8))


def one_dimensional(opset: int) -> onnx.ModelProto:
    """Convolutions over time, with a stride, dilated, and with padding that the runtime works out."""
    g = Graph(opset, x=("batch", 8, "time"))
    x = g.add("Relu", g.batch_norm(g.conv("x", "first", 16, 8, 5, strides=[2], pads=[2, 2]), "norm", 16))
    x = g.add("Relu", g.conv(x, "dilated", 16, 16, 3, dilations=[2], pads=[2, 2]))
    x = g.add("Tanh", g.conv(x, "padded", 16, 16, 4, auto_pad="SAME_UPPER"))
    return g.model(g.conv(x, "last", 8, 16, 1))


def transposed(opset: int) -> onnx.ModelProto:
    """Down, up again and beside what was there before, as in a U-Net."""
    g = Graph(opset, x=("batch", 3, 8, 8))
    x = g.add("Relu", g.conv("x", "stem", 16, 3, 3, 3, **_SAME))
    low = g.add("Relu", g.conv(x, "down", 32, 16, 2, 2, strides=[2, 2]))
    weights = g.weight("up.weight", 32, 16, 2, 2, fan_in=32), g.weight("up.bias", 16)
    high = g.add("Relu", g.add("ConvTranspose", low, *weights, name="up", kernel_shape=[2, 2], strides=[2, 2]))
    return g.model(g.conv(g.add("Concat", high, x, axis=1), "last", 8, 32, 3, 3, **_SAME))


MODELS: tuple[Callable[[int], onnx.ModelProto], ...] = (
    residual, depthwise_separable, grouped, shuffled, shuffled_groups, concat, split, hard_swish, squeeze_excite,
    flatten, one_dimensional, transposed,
)  # fmt: skip
