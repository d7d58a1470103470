"""Which constants of a graph are weights that training may change, and which are settings written as numbers."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# Read here, a number is a setting or a running statistic: an exponent, a limit, a variance.
_SETTINGS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4), "Clip": (1, 2), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2), "Pow": (1,),
    "Range": (0, 1, 2), "OneHot": (1, 2), "Dropout": (1, 2), "DequantizeLinear": (0, 1, 2), "Equal": (0, 1),
    "Greater": (0, 1), "Less": (0, 1), "GreaterOrEqual": (0, 1), "LessOrEqual": (0, 1), "TopK": (1,), "Expand": (1,),
}  # fmt: skip
# Read here, a single number is still a weight: a layer with one channel.
_WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2), "GroupNormalization": (1, 2),
    "RMSNormalization": (1,), "PRelu": (1,),
}  # fmt: skip
_LARGEST = 1e4  # a mask of -1e9 or minus infinity is no weight


def trainable(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Name -> value of every float32 constant that is a weight.

    Left out are settings (exponents, limits, scales of a resize), running statistics, masks of very large or infinite
    numbers, and single numbers that are not the weight, bias or scale of a layer.
    """
    readers: dict[str, list[tuple[str, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node.op_type, position))
    found: dict[str, np.ndarray] = {}
    for tensor in graph.initializer:
        reads = readers.get(tensor.name, [])
        if tensor.data_type != TensorProto.FLOAT or any(at in _SETTINGS.get(op, ()) for op, at in reads):
            continue
        size = math.prod(tensor.dims)
        if size == 0 or (size == 1 and not any(at in _WEIGHTS.get(op, ()) for op, at in reads)):
            continue
        array: np.ndarray = numpy_helper.to_array(tensor)
        if float(np.abs(array).max()) < _LARGEST:  # False for NaN
            found[tensor.name] = array
    return found
