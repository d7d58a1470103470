"""Weights that are rounded with compensation (GPTQ) while they learn: by the very code that writes the artifact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from autotune.compress.dialects.ort_cpu_weights import grid_of
from autotune.layers import Layer
from autotune.recover import rounding as values
from autotune.recover.operators.node import Tensor
from autotune.techniques.matrices import as_matrix, from_matrix
from autotune.techniques.rounding import Blocks, Grid, Rounding, round_weight

Fits = Callable[[np.ndarray], Grid]
_WORK = 10_000_000  # products that one rounding may take for every step that it serves
_MOST_STEPS = 16


class Compensated:
    """Rounds a layer's weight as `rounding` says, in numpy, with a straight-through gradient.

    Without gradients (where validation looks), and every few training steps, the weight is rounded anew; the wider the
    layer, the fewer. The steps between take the scales of the last time, and for each weight what it was moved by then:
    it changes its level when it has gone half a step on its own.
    """

    def __init__(
        self, layer: Layer, choice: str, rounding: Rounding, grid: tuple[Grid | Fits, int] | None = None
    ) -> None:
        """`grid` (or how it is found from the weight) and the length of its blocks, where they are not those of
        `ort_cpu_weights`."""
        self._layer, self._rounding = layer, rounding
        found, self._block = grid or grid_of(layer, choice)
        self._fits: Fits = found if callable(found) else lambda _: found
        inputs = layer.parameters // layer.shape[layer.output_axis]
        compensates = rounding.method != "nearest" and rounding.moments is not None
        self._every = 1 if not compensates else min(_MOST_STEPS, 1 + layer.parameters * inputs // _WORK)
        self._runs = 0
        self._before: Tensor | None = None  # the weight that was rounded last
        self._rounded = self._moved = torch.zeros(())
        self._scales: np.ndarray = np.zeros(0, np.float32)

    def __call__(self, weight: Tensor) -> Tensor:
        now = weight.detach()
        learns = weight.requires_grad and torch.is_grad_enabled()
        self._runs += learns
        if not learns or self._before is None or self._runs % self._every == 0:
            return values.straight_through(weight, self._anew(now))
        return values.straight_through(weight, self._nearest(now))

    def _anew(self, weight: Tensor) -> Tensor:
        if self._before is None or not torch.equal(weight, self._before):
            self._grid = self._fits(weight.numpy())
            made = round_weight(self._layer, weight.numpy(), self._grid, self._block, self._rounding)
            self._before, self._scales = weight.clone(), made.scales
            self._rounded = self._restored(made, weight)
            self._moved = self._rounded - weight
        return self._rounded

    def _nearest(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(self._layer, (weight + self._moved).numpy())
        rows = matrix.reshape(-1, matrix.shape[-1])
        outputs, length = rows.shape
        padded = np.zeros((outputs, self._scales.shape[1] * self._block), np.float32)
        padded[:, :length] = rows
        blocks = padded.reshape(outputs, -1, self._block)
        levels = self._grid.levels(blocks, self._scales[..., None]).astype(np.int8)
        return self._restored(Blocks(levels, self._scales, length, self._grid), weight)

    def _restored(self, made: Blocks, weight: Tensor) -> Tensor:
        return torch.from_numpy(from_matrix(self._layer, made.restore(), tuple(weight.shape)))
