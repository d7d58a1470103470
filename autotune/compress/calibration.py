"""Activation ranges: one streamed pass for minimum and maximum, a second for histograms; bounded memory.

The model with every wanted activation as an extra output runs on the target; per tensor a few numbers and one
histogram are kept, never the activations. `minmax`, `percentile` and `entropy` are all read off the same statistics,
so changing the method costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from autotune.errors import DataError

Method = Literal["minmax", "percentile", "entropy"]
BINS = 2048
LEVELS = 256

Runs = Callable[[], Iterable[Mapping[str, np.ndarray]]]  # one pass over the calibration data: activations by name


@dataclass(frozen=True)
class Range:
    """Closed interval that an activation is quantised over; always contains 0."""

    low: float
    high: float

    def uint8(self) -> tuple[np.float32, np.uint8]:
        """(scale, zero point) of asymmetric 8 bit: real = (level - zero) * scale. The scale is never 0."""
        scale = np.float32(max((self.high - self.low) / 255.0, 1e-12))
        zero = np.uint8(np.clip(np.rint(-self.low / float(scale)), 0, 255))
        return scale, zero


@dataclass(frozen=True)
class Statistics:
    """What is kept of one activation: extremes, and counts in `BINS` equal bins between them."""

    low: float
    high: float
    counts: np.ndarray  # int64 [BINS]

    def range(self, method: Method, percentile: float = 99.99) -> Range:
        """The interval that `method` chooses."""
        if method == "minmax" or self.high <= self.low:
            return _with_zero(self.low, self.high)
        if method == "percentile":
            return self._percentile(percentile)
        return self._entropy()

    def _percentile(self, percentile: float) -> Range:
        """Drop (100 - percentile) % of the values, half on each side; one-sided where the data is."""
        edges: np.ndarray = np.linspace(self.low, self.high, BINS + 1)
        total = np.cumsum(self.counts) / max(1, self.counts.sum())
        tail = (1 - percentile / 100) / (2 if self.low < 0 < self.high else 1)
        low = edges[int(np.searchsorted(total, tail, side="right"))] if self.low < 0 else self.low
        high = edges[min(BINS, int(np.searchsorted(total, 1 - tail, side="left")) + 1)] if self.high > 0 else self.high
        return _with_zero(float(low), float(high))

    def _entropy(self) -> Range:
        """Clipping threshold with the least KL divergence between the clipped and the quantised distribution.

        Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017. Extended to two-sided data: the threshold clips
        both ends at once, where an end lies inside it nothing is cut. Values beyond the threshold are added to the
        outermost bins of the reference only, so that clipping has its price.
        """
        edges = np.linspace(self.low, self.high, BINS + 1)
        counts = self.counts.astype(np.float64)
        limit = max(abs(self.low), abs(self.high))
        best, chosen = np.inf, _with_zero(self.low, self.high)
        for threshold in np.linspace(limit / 16, limit, 64):
            start = int(np.searchsorted(edges, -threshold, side="left")) if self.low < -threshold else 0
            stop = int(np.searchsorted(edges, threshold, side="right")) - 1 if self.high > threshold else BINS
            if stop - start < LEVELS:
                continue
            divergence = _divergence(counts, start, stop)
            if divergence < best:
                best, chosen = divergence, _with_zero(float(edges[start]), float(edges[stop]))
        return chosen


def collect(runs: Runs) -> dict[str, Statistics]:
    """Two passes over the calibration data. Raises `DataError` for NaN or infinite activations, naming the tensor."""
    extremes: dict[str, tuple[float, float]] = {}
    for activations in runs():
        for name, array in activations.items():
            if array.size == 0:
                continue
            low, high = float(array.min()), float(array.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise DataError(
                    f"calibration: activation {name!r} of the original model is not finite; check the model and the "
                    "calibration inputs"
                )
            before = extremes.get(name, (low, high))
            extremes[name] = (min(before[0], low), max(before[1], high))
    counts = {name: np.zeros(BINS, np.int64) for name in extremes}
    for activations in runs():
        for name, array in activations.items():
            if array.size and extremes[name][1] > extremes[name][0]:
                counts[name] += np.histogram(array, bins=BINS, range=extremes[name])[0]
    return {name: Statistics(low, high, counts[name]) for name, (low, high) in extremes.items()}


def save(statistics: Mapping[str, Statistics], path: Path) -> None:
    """Write as JSON, atomically."""
    data = {name: [s.low, s.high, s.counts.tolist()] for name, s in statistics.items()}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def load(path: Path) -> dict[str, Statistics] | None:
    """Read what `save` wrote; None if it is not there or torn."""
    try:
        data = json.loads(path.read_text())
        return {name: Statistics(low, high, np.array(counts, np.int64)) for name, (low, high, counts) in data.items()}
    except (FileNotFoundError, ValueError):
        return None


def wanted_tensors(names: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """`names` without repetition and without those that the graph does not produce."""
    there = set(known)
    return tuple(dict.fromkeys(name for name in names if name in there))


def _with_zero(low: float, high: float) -> Range:
    return Range(min(low, 0.0), max(high, 0.0))


def _divergence(counts: np.ndarray, start: int, stop: int) -> float:
    """KL(P || Q) of bins [start, stop) quantised to `LEVELS`; P includes the clipped mass at its ends."""
    inside = counts[start:stop]
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    groups = np.arange(len(inside)) * LEVELS // len(inside)
    mass = np.bincount(groups, weights=inside, minlength=LEVELS)
    filled = np.bincount(groups, weights=(inside > 0), minlength=LEVELS)
    spread = np.where(inside > 0, mass[groups] / np.maximum(filled[groups], 1), 0.0)
    # A little mass everywhere keeps the divergence finite where clipped values meet an empty bin.
    p = reference / reference.sum()
    q = (spread + 1e-6 * spread.sum() / len(spread)) / (spread.sum() * (1 + 1e-6))
    live = p > 0
    return float((p[live] * np.log(p[live] / q[live])).sum())
