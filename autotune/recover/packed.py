"""Frozen weights in the few bits of their format: codes and scales, from which numbers are made where they are read.

As the base of QLoRA (Dettmers et al. 2023, arXiv 2305.14314) is held; here in the very formats that a recipe writes.
"""

from __future__ import annotations

import numpy as np
import torch

from autotune.layers import Layer
from autotune.recover.operators.node import Tensor
from autotune.techniques.matrices import as_matrix, from_matrix
from autotune.techniques.rounding import Blocks, Grid, pack_bits, to_nearest

_PART = 1 << 20  # numbers that are rounded at a time: rounding takes many times the room of what it rounds


class PackedHalf:
    """float16 or bfloat16 numbers."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    @property
    def bytes(self) -> int:
        return self._values.numel() * self._values.element_size()

    def restore(self) -> Tensor:
        return self._values.float()

    def rows(self, places: Tensor) -> Tensor:
        return self._values[places].float()


class PackedLevels:
    """Levels of a grid in 2, 4 or 8 bits, and one float32 scale per block."""

    def __init__(self, layer: Layer, made: Blocks) -> None:
        """`made` is the layer's weight as a matrix [outputs, inputs], rounded."""
        outputs, blocks, block = made.levels.shape
        lowest, highest = int(made.levels.min()), int(made.levels.max())
        self._bits = _bits(highest - lowest, blocks * block)
        codes = (made.levels.astype(np.int16) - lowest).astype(np.uint8).reshape(outputs, -1)
        self._codes = torch.from_numpy(pack_bits(codes, self._bits))  # [outputs, bytes]
        self._scales = torch.from_numpy(np.ascontiguousarray(made.scales, np.float32))
        every = np.arange(lowest, highest + 1)
        values = np.asarray(made.grid.restore(every, np.ones(1, np.float32)), np.float32)
        self._lowest = lowest
        self._table = None if np.array_equal(values, every) else torch.from_numpy(values)
        self._length, self._axis = made.length, layer.output_axis
        self._shape = tuple(n for i, n in enumerate(layer.shape) if i != layer.output_axis)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def bytes(self) -> int:
        return self._codes.numel() + 4 * self._scales.numel()

    def restore(self) -> Tensor:
        return self._values(self._codes, self._scales).movedim(0, self._axis)

    def rows(self, places: Tensor) -> Tensor:
        return self._values(self._codes[places], self._scales[places])

    def _values(self, packed: Tensor, scales: Tensor) -> Tensor:
        """[rows, ...] of packed rows [rows, bytes] and scales [rows, blocks]."""
        per_byte = 8 // self._bits
        codes = packed
        if per_byte > 1:
            shifts = torch.arange(0, 8, self._bits, dtype=torch.uint8)
            codes = ((packed[..., None] >> shifts) & (2**self._bits - 1)).reshape(len(packed), -1)
        if self._table is None:
            values = codes.float().add_(self._lowest)
        else:
            values = self._table.index_select(0, codes.reshape(-1).int())
        blocked = values.reshape(*scales.shape, -1).mul_(scales[..., None])
        return blocked.reshape(len(packed), -1)[:, : self._length].reshape(len(packed), *self._shape)


def levels_of(layer: Layer, weight: np.ndarray, grid: Grid, block: int) -> PackedLevels:
    """A layer's weight rounded to nearest on `grid` in blocks of `block`, a part of its rows at a time."""
    parts = _in_parts(layer, weight, grid, block)
    levels, scales = (np.concatenate(each) for each in ([p.levels for p in parts], [p.scales for p in parts]))
    return PackedLevels(layer, Blocks(levels, scales, parts[0].length, grid))


def nearest(layer: Layer, weight: np.ndarray, grid: Grid, block: int) -> np.ndarray:
    """The same as float32 numbers in the shape of the weight."""
    rows = np.concatenate([part.restore() for part in _in_parts(layer, weight, grid, block)])
    return from_matrix(layer, rows, weight.shape)


def _in_parts(layer: Layer, weight: np.ndarray, grid: Grid, block: int) -> list[Blocks]:
    matrix = as_matrix(layer, weight)
    matrix = matrix.reshape(-1, matrix.shape[-1])
    outputs, length = matrix.shape
    step = max(1, _PART // length)
    return [to_nearest(matrix[at : at + step], grid, block) for at in range(0, outputs, step)]


def _bits(span: int, length: int) -> int:
    """The fewest that hold numbers from 0 to `span` and fill whole bytes with `length` of them."""
    return next((bits for bits in (2, 4) if span < 2**bits and length * bits % 8 == 0), 8)
