"""What a scale is moved within: a tensor, what writes it and what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import numpy_helper

from autotune.layers import Layer
from autotune.techniques.protocol import Plan


@dataclass(frozen=True)
class Fold:
    """A constant that is multiplied by a number per channel: input `at` of a node, `ids` as broadcast against it."""

    node: str
    at: int
    ids: np.ndarray


@dataclass(frozen=True)
class Unit:
    """One scale per channel: the tensor is divided by it, the readers' weights are multiplied by it.

    `name` is the first reader. `writer` is the layer whose weights are divided, if it is one. `readers`: layer -> the
    channel `[inputs]` that each of its input channels or features comes from. `inserted` is the tensor that a node of
    its own divides, where nothing that is there can.
    """

    name: str
    channels: int
    writer: str | None
    readers: Mapping[str, np.ndarray]
    folds: tuple[Fold, ...]
    inserted: str | None = None


def is_product(layer: Layer) -> bool:
    """A product, or a convolution that is one at every pixel."""
    return layer.op in ("MatMul", "Gemm") or (
        layer.op == "Conv" and layer.group == 1 and all(size == 1 for size in layer.shape[2:])
    )


def inputs_of(layer: Layer) -> int:
    """How many features or channels a product or convolution reads."""
    return layer.shape[1] * layer.group if layer.op == "Conv" else layer.shape[1 - layer.output_axis]


def array(plan: Plan, name: str) -> np.ndarray:
    """A constant in float64."""
    return numpy_helper.to_array(plan.tensors[name]).astype(np.float64)
