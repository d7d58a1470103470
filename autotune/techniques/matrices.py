"""Weights as matrices: one row per output, one column per number that the output is a weighted sum of."""

from __future__ import annotations

import numpy as np

from autotune.layers import Layer


def as_matrix(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The weight as `[groups, outputs / groups, inputs]`, whichever way it is stored; a view where that is possible.

    `inputs` counts what one output reads: the features of a product, or channel, row and column of the kernel (in that
    order) of a convolution. A ConvTranspose and a table (Gather) are `[1, shape[output_axis], everything else]`.
    """
    rows = np.moveaxis(weight, layer.output_axis, 0)
    groups = layer.group if layer.op == "Conv" else 1
    return rows.reshape(groups, rows.shape[0] // groups, -1)


def from_matrix(layer: Layer, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `as_matrix`: float32 of `shape`, contiguous."""
    moved = (shape[layer.output_axis], *(n for axis, n in enumerate(shape) if axis != layer.output_axis))
    weight = np.moveaxis(matrix.reshape(moved), 0, layer.output_axis)
    return np.ascontiguousarray(weight, np.float32)
