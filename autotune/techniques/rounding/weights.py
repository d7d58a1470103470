"""A layer's weight rounded as asked for, and how much its outputs are shifted by that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.techniques.matrices import as_matrix
from autotune.techniques.moments import Moments
from autotune.techniques.rounding.gptq import compensated
from autotune.techniques.rounding.grids import Grid
from autotune.techniques.rounding.nearest import Blocks, to_nearest
from hwprofiles.errors import Failure

Method = Literal["nearest", "gptq"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Rounding:
    """How the weights of a layer are rounded, and what the layer reads. Without `moments` it is always to nearest."""

    method: Method = "nearest"
    bias_correction: bool = False
    moments: Moments | None = None

    @property
    def needs_moments(self) -> bool:
        """Whether `moments` make a difference to the rounding."""
        return self.method != "nearest" or self.bias_correction

    def key(self) -> tuple[object, ...]:
        """What the result depends on beside weight and format; () where it is plain rounding to nearest."""
        return () if self.moments is None else (self.method, self.bias_correction, self.moments.digest)


NEAREST = Rounding()


def round_weight(layer: Layer, weight: np.ndarray, grid: Grid, block: int, rounding: Rounding) -> Blocks:
    """The weight as a matrix `[outputs, inputs]` (the rows and columns of `as_matrix`), in blocks along its rows.

    Raises `TrialFailure` for moments that are not finite or do not fit.
    """
    matrix = as_matrix(layer, weight)
    groups, outputs, inputs = matrix.shape
    if rounding.method == "nearest" or rounding.moments is None:
        return to_nearest(matrix.reshape(groups * outputs, inputs), grid, block)
    _check(layer, matrix, rounding.moments)
    return compensated(matrix, rounding.moments.gram, grid, block)


def output_shift(layer: Layer, weight: np.ndarray, rounded: np.ndarray, moments: Moments) -> np.ndarray:
    """Mean of (W - rounded W) x for each output, float32 `[outputs]`: what rounding takes from the outputs' means.

    `rounded` is a matrix `[outputs, inputs]`. Raises `TrialFailure` for moments that are not finite or do not fit.
    """
    matrix = as_matrix(layer, weight)
    _check(layer, matrix, moments)
    lost = matrix.astype(np.float64) - rounded.reshape(matrix.shape)
    shift: np.ndarray = (lost @ moments.mean.astype(np.float64)[..., None]).reshape(-1).astype(np.float32)
    return shift


def _check(layer: Layer, matrix: np.ndarray, moments: Moments) -> None:
    groups, _, inputs = matrix.shape
    if moments.gram.shape != (groups, inputs, inputs):
        read = " x ".join(map(str, moments.gram.shape))
        message = (
            f"layer {layer.name!r} reads {groups} x {inputs} inputs, but its moments are {read}: a technique before "
            "quantize changed the layer and did not tell its moments; report this"
        )
        raise TrialFailure(Failure(kind="bad_model", stage="build", message=message))
    if not (np.isfinite(moments.gram).all() and np.isfinite(moments.mean).all()):
        message = (
            f"layer {layer.name!r} reads NaN or infinity on the calibration data; mend the data or set rounding to "
            "'nearest' and bias_correction to false"
        )
        raise TrialFailure(Failure(kind="bad_model", stage="build", message=message))
