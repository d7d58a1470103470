"""Layers that compute in 16 bit: what is rounded there and how, for those who train with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import onnx

from autotune.compress.calibration import Range
from autotune.layers import Layer
from autotune.techniques.rounding import Grid

Half = Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class Static:
    """Symmetric with a fixed scale: int8 levels in [-128, 127]; E4M3 numbers that saturate at 448; or E2M1 numbers in
    blocks of 16 along the last axis, whose own scales, E4M3 numbers times the fixed one, are found at run time."""

    kind: Literal["int8", "e4m3", "e2m1-blocks"]
    scale: Callable[[Range], float]  # of the calibrated range of an activation


@dataclass(frozen=True)
class Sixteen:
    """A layer whose weight, inputs, bias and outputs are of type `kind`.

    `grid` is what the weight is rounded to before that, in blocks of `block`; `activation` what its input is. `fits`
    takes the place of `grid` where the grid depends on the weight.
    """

    kind: Half
    grid: Grid | None = None
    block: int = 0
    activation: Static | None = None
    fits: Callable[[np.ndarray], Grid] | None = None


@runtime_checkable
class ComputesInSixteen(Protocol):
    """A dialect in which every layer with a choice computes in 16 bit."""

    def sixteen(self, layer: Layer, choice: str) -> Sixteen:
        """How a layer computes under a choice. Raises `TrialFailure` for one that cannot be trained with."""
        ...

    def quantised_sums(
        self,
        nodes: Sequence[onnx.NodeProto],
        outputs: Collection[str],
        activations: Collection[str],
        layers: Mapping[str, Layer],
        decisions: Mapping[str, str],
    ) -> Mapping[tuple[str, str], tuple[str, Layer]]:
        """Inputs of sums that are brought to a static format as well: (node, tensor) -> (choice, layer it is for).

        `nodes` in topological order, `activations` those with a calibrated range.
        """
        ...
