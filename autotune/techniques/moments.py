"""Moments: what is kept of everything that a layer reads on the calibration data, in place of the data themselves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_ROWS = 256  # of a matrix that may lie on disk, read together


@dataclass(frozen=True)
class Moments:
    """First and second moments of a layer's inputs, in the order of the columns of `matrices.as_matrix`.

    `gram`: float32 `[groups, inputs, inputs]`, the mean of x xᵀ. `mean`: float32 `[groups, inputs]`, the mean of x.
    `rows` is how many x were seen: tokens, pixels, samples.
    """

    gram: np.ndarray
    mean: np.ndarray
    rows: int

    @property
    def squares(self) -> np.ndarray:
        """float32 `[groups, inputs]`: the mean of x²."""
        return np.ascontiguousarray(np.diagonal(self.gram, axis1=1, axis2=2))

    def select(self, columns: np.ndarray) -> Moments:
        """Those of the chosen inputs (indices `[n]`, the same in each group): what is left when others are removed."""
        return Moments(self.gram[:, columns[:, None], columns], self.mean[:, columns], self.rows)

    def transform(self, matrix: np.ndarray) -> Moments:
        """Those of `matrix @ x`: what the second of two factors reads. `matrix` is `[groups, outputs, inputs]`."""
        gram = matrix @ self.gram @ matrix.transpose(0, 2, 1)
        mean = (matrix @ self.mean[..., None])[..., 0]
        return Moments(gram.astype(np.float32), mean.astype(np.float32), self.rows)

    def scale(self, factors: np.ndarray) -> Moments:
        """Those of `factors * x`; `factors` is `[inputs]` or `[groups, inputs]`."""
        by = np.broadcast_to(factors, self.mean.shape).astype(np.float32)
        return Moments(self.gram * by[:, :, None] * by[:, None, :], self.mean * by, self.rows)

    @cached_property
    def digest(self) -> str:
        """sha256 of the numbers: what depends on them is cached under it."""
        state = hashlib.sha256(f"{self.gram.shape}{self.rows}".encode())
        for group in self.gram:
            for begin in range(0, len(group), _ROWS):
                state.update(np.ascontiguousarray(group[begin : begin + _ROWS]).data)
        state.update(np.ascontiguousarray(self.mean).tobytes())
        return state.hexdigest()
