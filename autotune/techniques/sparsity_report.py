"""What zeros buy on a target without kernels for them: a smaller download, told in bytes."""

from __future__ import annotations

import zlib
from typing import TypedDict

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

LEVEL = 6  # of zlib, as gzip and zip use it by default
_SMALLEST = 256  # elements: smaller constants say nothing about sparsity
_PLAIN = frozenset(  # types in which the number 0 stands for the weight 0
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.INT4}
)


class Sparsity(TypedDict):
    """`bytes` of the file, `compressed` bytes of it as a download, and `zeros`: constant -> share of zeros in it."""

    bytes: int
    compressed: int
    zeros: dict[str, float]


def compressed_size(model_bytes: bytes) -> int:
    """Bytes of an ONNX file as a download: zlib, level 6."""
    return len(zlib.compress(model_bytes, LEVEL))


def what_sparsity_buys(model_bytes: bytes) -> Sparsity:
    """Size of an ONNX file as it is and compressed (zlib, level 6), and where its zeros are.

    Weights packed for a kernel in blocks of 8 bits and less store no plain zeros and are missing from `zeros`.
    """
    graph = onnx.load_from_string(model_bytes).graph
    zeros = {
        tensor.name: float(1 - np.count_nonzero(array) / array.size)
        for tensor in graph.initializer
        if tensor.data_type in _PLAIN and (array := numpy_helper.to_array(tensor)).size >= _SMALLEST
    }
    return Sparsity(bytes=len(model_bytes), compressed=compressed_size(model_bytes), zeros=zeros)
