"""Damage: how far a candidate's outputs drift from the original's on a few probe samples. Needs no labels.

It is the cheap gate before expensive steps, and evidence beside the verdict. It may reject a ruined
candidate; it does not rank good ones (near the original, divergence and loss of accuracy hardly correlate).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotune.errors import DataError
from autotune.slices import ALL, Mask
from autotune.workload import Arrays

MEMORY = 256 << 20  # bytes of original outputs that are kept, at most
_TINY = 1e-7  # below this a probability counts as this

Floats = NDArray[np.float32]
Kind = Literal["exact", "distribution", "numbers"]


def probe_indices(masks: Mapping[str, Mask], count: int, seed: int = 0) -> list[int]:
    """`count` sample indices, sorted, drawn so that every slice gets its turn, the least covered one first.

    All samples where there are no more than `count`.
    """
    n = len(masks[ALL])
    if count >= n:
        return list(range(n))
    order = np.random.default_rng(seed).permutation(n)
    slices = [mask for name, mask in masks.items() if name != ALL] or [masks[ALL]]
    queues = [[int(index) for index in order if mask[index]] for mask in slices]
    chosen: set[int] = set()
    while len(chosen) < count:
        covered = [sum(bool(mask[index]) for index in chosen) for mask in slices]
        for turn in sorted(range(len(slices)), key=covered.__getitem__):
            fresh = [index for index in queues[turn] if index not in chosen]
            if fresh:
                chosen.add(fresh[0])
                break
        else:  # every declared slice is used up: take what is in none of them
            chosen.add(next(int(index) for index in order if int(index) not in chosen))
    return sorted(chosen)


class Damage:
    """Keeps the original's outputs on the probe samples (float16) and compares candidates with them.

    `indices` are those of the probe samples, `outputs` the original's outputs in the same order, one sample
    each. Where all of them would need more than `memory` bytes, evenly spaced rows (all axes but the last)
    are kept.
    """

    def __init__(
        self,
        indices: Iterable[int],
        masks: Mapping[str, Mask],
        outputs: Iterable[Arrays],
        *,
        memory: int = MEMORY,
    ) -> None:
        self.indices = list(indices)
        self._members = {name: mask[self.indices] for name, mask in masks.items() if mask[self.indices].any()}
        share = memory // max(1, len(self.indices))
        self._kept = [{name: _Kept(array, share) for name, array in each.items()} for each in outputs]
        if len(self._kept) != len(self.indices):
            raise DataError(f"{len(self._kept)} outputs were given for {len(self.indices)} probe samples")

    def compare(self, outputs: Iterable[Arrays]) -> dict[str, float]:
        """Slice -> mean divergence of a candidate's outputs, given in the order of `indices`, one sample
        each.

        The rule is that of `divergence`. Slices without a probe sample are left out.
        """
        values = np.array(
            [
                np.mean([kept.divergence(answer[name]) for name, kept in original.items()])
                for original, answer in zip(self._kept, outputs, strict=True)
            ]
        )
        return {name: float(values[member].mean()) for name, member in self._members.items()}


class _Kept:
    """One output of the original for one sample."""

    def __init__(self, array: np.ndarray, share: int) -> None:
        self.shape = array.shape
        rows = _rows(array)
        width = max(1, rows.shape[1]) * (rows.itemsize if array.dtype.kind != "f" else 2)
        keep = min(len(rows), max(1, share // width))
        self.picked = np.linspace(0, len(rows) - 1, keep).astype(int) if len(rows) else np.zeros(0, dtype=int)
        kept = rows[self.picked]
        self.kind = _kind(kept)
        # float16 ends at 65504: larger values are stored as parts of the largest
        self.scale = float(np.abs(kept).max(initial=0.0)) if self.kind == "numbers" else 1.0
        self.values = kept if self.kind == "exact" else (kept / (self.scale or 1.0)).astype(np.float16)

    def divergence(self, array: np.ndarray) -> float:
        if array.shape != self.shape:
            return 1.0
        mine = self.values if self.kind == "exact" else self.values.astype(np.float32) * np.float32(self.scale)
        return _divergence_rows(mine, _rows(array)[self.picked], self.kind)


def divergence(original: Arrays, candidate: Arrays) -> float | None:
    """How far a candidate's outputs for one sample are from the original's; the mean over the outputs that both have.

    KL(original || candidate) in nats per row where the original's output is a distribution over its last axis; the
    relative L2 distance elsewhere; the fraction that differs for integers; 1.0 for an output of another shape. None
    where the two have no output in common.
    """
    shared = [name for name in original if name in candidate]
    if not shared:
        return None
    return float(np.mean([_divergence_array(original[name], candidate[name]) for name in shared]))


def divergence_logits(original: np.ndarray, candidate: np.ndarray) -> float:
    """KL(original || candidate) in nats of the softmax over the last axis, the mean over all rows; 1.0 for another
    shape."""
    if original.shape != candidate.shape:
        return 1.0
    return _divergence_kl(_softmax(_rows(original)), _softmax(_rows(candidate)))


def _softmax(rows: np.ndarray) -> Floats:
    powers = np.exp(rows.astype(np.float32) - rows.max(axis=1, keepdims=True).astype(np.float32))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _divergence_array(original: np.ndarray, candidate: np.ndarray) -> float:
    if original.shape != candidate.shape:
        return 1.0
    mine = _rows(original)
    return _divergence_rows(mine, _rows(candidate), _kind(mine))


def _divergence_rows(mine: np.ndarray, other: np.ndarray, kind: Kind) -> float:
    """The rule behind all divergences, for rows of equal shape; `kind` is that of the original's."""
    if not mine.size:
        return 0.0
    if kind == "exact":
        return float(np.mean(other != mine))
    mine, other = mine.astype(np.float32), other.astype(np.float32)
    if kind == "distribution":
        return _divergence_kl(mine, other)
    return float(np.linalg.norm(other - mine)) / max(float(np.linalg.norm(mine)), _TINY)


def _kind(rows: np.ndarray) -> Kind:
    if rows.dtype.kind != "f":
        return "exact"
    return "distribution" if _is_distribution(rows) else "numbers"


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)


def _is_distribution(rows: np.ndarray) -> bool:
    return bool(
        rows.size and rows.shape[1] > 1 and rows.min() >= -1e-6 and np.allclose(rows.sum(axis=1), 1.0, atol=1e-2)
    )


def _divergence_kl(p: Floats, q: Floats) -> float:
    p, q = np.maximum(p, _TINY), np.maximum(q, _TINY)
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    return max(0.0, float((p * np.log(p / q)).sum(axis=1).mean()))
