"""Cross-layer equalisation over chains: each scale depends on those before and behind, so they are found together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.techniques.equalise import scales
from autotune.techniques.equalise.folding import by_input
from autotune.techniques.equalise.units import Unit
from autotune.techniques.protocol import Plan

_ROUNDS = 100
_SETTLED = 1e-3  # the natural logarithm of no factor in a round is further from 0


class _Sizes:
    """The largest magnitude of a layer's weights per input and output, and the scales on either side."""

    def __init__(self, plan: Plan, name: str) -> None:
        layer = plan.layer(name)
        if layer.op == "ConvTranspose":  # written only, never read
            rows = np.abs(np.moveaxis(plan.weight(layer), layer.output_axis, 0))
            self._sizes = rows.reshape(1, len(rows), -1).max(axis=2)[:, None, :].astype(np.float64)
        else:
            largest = np.abs(by_input(plan, name)).max(axis=2).astype(np.float64)
            self._sizes = largest.reshape(layer.group, -1, largest.shape[1])  # [groups, inputs, outputs]
        self._before = np.ones(self._sizes.shape[:2])
        self._behind = np.ones((self._sizes.shape[0], self._sizes.shape[2]))

    def written(self) -> np.ndarray:
        """`[outputs]`: per output channel."""
        found: np.ndarray = ((self._sizes * self._before[:, :, None]).max(axis=1) * self._behind).reshape(-1)
        return found

    def read(self) -> np.ndarray:
        """`[inputs]`: per input channel."""
        found: np.ndarray = ((self._sizes * self._behind[:, None, :]).max(axis=2) * self._before).reshape(-1)
        return found

    def divide(self, by: np.ndarray) -> None:
        """Its outputs, `[outputs]`."""
        self._behind /= by.reshape(self._behind.shape)

    def multiply(self, by: np.ndarray) -> None:
        """Its inputs, `[inputs]`."""
        self._before *= by.reshape(self._before.shape)


def balanced(plan: Plan, units: Sequence[Unit]) -> list[tuple[Unit, np.ndarray]]:
    """Each unit with its scale `[channels]`, found by going over all of them until nothing moves any more."""
    names = {name for unit in units for name in (*unit.readers, unit.writer) if name is not None}
    layers = {name: _Sizes(plan, name) for name in sorted(names)}
    total = {unit.name: np.ones(unit.channels) for unit in units}
    for _ in range(_ROUNDS):
        furthest = 0.0
        for unit in units:
            if unit.writer is None:
                continue
            read = np.zeros(unit.channels)
            for name, channels in unit.readers.items():
                np.maximum.at(read, channels, layers[name].read())
            step = scales.cross_layer(layers[unit.writer].written(), read)
            step = np.clip(total[unit.name] * step, 1 / scales.LIMIT, scales.LIMIT) / total[unit.name]
            total[unit.name] *= step
            layers[unit.writer].divide(step)
            for name, channels in unit.readers.items():
                layers[name].multiply(step[channels])
            furthest = max(furthest, float(np.abs(np.log(step)).max()))
        if furthest < _SETTLED:
            break
    return [(unit, total[unit.name]) for unit in units]
