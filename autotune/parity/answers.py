"""Agreement of final outputs over all samples, streamed: one sample at a time, nothing of it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotune.judge.intervals import proportion
from autotune.parity.distance import BOUNDED, Gap, gap
from autotune.parity.promotion import widened
from autotune.parity.report import Kind, OutputParity, Tolerance
from hwprofiles.measurement import Estimate

Array = np.ndarray[Any, Any]

_SUMS_TO_ONE = 1e-2
_PROBABILITY_FLOOR = 1e-3  # a probability is right beside 1, not beside itself


def kind_of_output(array: Array, *, numbers: bool = False) -> Kind:
    """How an output is judged.

    Class scores are float matrices [rows, classes], and anything whose last axis holds probabilities that add up to
    one. With `numbers` no output is taken for class scores.
    """
    if array.dtype.kind != "f":
        return "exact"
    if numbers or array.ndim < 2 or array.shape[-1] < 2 or not array.size:
        return "numbers"
    if array.ndim == 2:
        return "argmax"
    rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
    sums = rows.sum(axis=1)
    return "argmax" if bool(rows.min() >= -1e-6 and np.allclose(sums, 1.0, atol=_SUMS_TO_ONE)) else "numbers"


def _square(truth: Array) -> float:
    """Sum of the squares of what is finite: equal infinities and NaN are no difference, and no size either."""
    if truth.dtype.kind not in "fiub":
        return 0.0
    values = truth.astype(np.float64)
    return float(np.square(values, where=np.isfinite(values), out=np.zeros_like(values)).sum())


@dataclass
class OutputTally:
    """One output of one target beside the reference."""

    name: str
    kind: Kind
    op: str = ""  # of the node that makes it
    rows: int = 0
    equal: int = 0
    away: float = 0.0  # sum of squared differences
    size: float = 0.0  # sum of squared reference values
    max_abs: float = 0.0
    worst: float = -1.0
    worst_sample: int = 0
    worst_distance: float | None = 0.0
    mismatches: list[str] = field(default_factory=list)

    def add(self, sample: int, found: Array, truth: Array) -> None:
        """Count one sample."""
        floor = _PROBABILITY_FLOOR if self.op in BOUNDED else 0.0
        away = gap(found, widened(truth), floor=floor)
        if away.mismatch:
            self.mismatches.append(f"sample {sample}: {away.mismatch}")
        else:
            square = max(_square(truth), floor**2 * truth.size)
            assert away.distance is not None
            self.away += away.distance**2 * square if square else float(away.unequal > 0)
            self.size += square
            self.max_abs = max(self.max_abs, away.step)
        self._rows(found, truth, away)
        badness = np.inf if away.mismatch else float(away.distance or 0.0)
        if badness > self.worst:
            self.worst, self.worst_sample, self.worst_distance = badness, sample, away.distance

    def _rows(self, found: Array, truth: Array, away: Gap) -> None:
        if self.kind == "exact":
            self.rows += found.size
            self.equal += found.size - away.unequal
        elif self.kind == "argmax":
            rows = truth.size // truth.shape[-1]
            self.rows += rows
            if found.shape == truth.shape:
                bad = np.isnan(found).any(axis=-1) != np.isnan(truth).any(axis=-1)
                self.equal += int(((found.argmax(axis=-1) == truth.argmax(axis=-1)) & ~bad).sum())

    @property
    def agreement(self) -> Estimate | None:
        return proportion(self.equal, self.rows) if self.rows else None

    @property
    def distance(self) -> float | None:
        if self.mismatches:
            return None
        return float(np.sqrt(self.away / self.size)) if self.size else float(self.away > 0)

    def result(self, tolerance: Tolerance) -> OutputParity:
        """The record."""
        distance, agreement = self.distance, self.agreement
        if self.kind == "argmax":
            agrees = not self.mismatches and agreement is not None and agreement.value >= tolerance.agreement
        elif self.kind == "exact":
            agrees = not self.mismatches and (agreement is None or agreement.value >= tolerance.agreement)
        else:
            agrees = not self.mismatches and distance is not None and distance <= tolerance.distance
        more = f" (and {len(self.mismatches) - 1} more samples)" if len(self.mismatches) > 1 else ""
        return OutputParity(
            output=self.name,
            kind=self.kind,
            rows=self.rows,
            agreement=agreement,
            distance=distance,
            worst_distance=self.worst_distance,
            worst_sample=self.worst_sample,
            max_abs=None if self.mismatches else self.max_abs,
            mismatch=f"{self.mismatches[0]}{more}" if self.mismatches else "",
            agrees=agrees,
        )
