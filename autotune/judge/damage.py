"""Damage: how far a candidate's outputs drift from the original's on a few probe samples. Needs no labels.

It is the cheap gate before expensive steps, and evidence beside the verdict. It may reject a ruined
candidate; it does not rank good ones (near the original, divergence and loss of accuracy hardly correlate).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from autotune.errors import DataError
from autotune.slices import ALL, Mask
from autotune.workload import Arrays

MEMORY = 256 << 20  # bytes of original outputs that are kept, at most
_TINY = 1e-7  # below this a probability counts as this

Floats = NDArray[np.float32]


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

        KL(original || candidate) in nats per row where the output is a distribution over its last axis; the
        relative L2 distance elsewhere; the fraction that differs for integers; 1.0 for an output of another
        shape. Several outputs count alike. Slices without a probe sample are left out.
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
        self.exact = array.dtype.kind != "f"
        rows = _rows(array)
        width = max(1, rows.shape[1]) * (rows.itemsize if self.exact else 2)
        keep = min(len(rows), max(1, share // width))
        self.picked = np.linspace(0, len(rows) - 1, keep).astype(int) if len(rows) else np.zeros(0, dtype=int)
        kept = rows[self.picked]
        self.distribution = not self.exact and _is_distribution(kept)
        # float16 ends at 65504: larger values are stored as parts of the largest
        self.scale = float(np.abs(kept).max(initial=0.0)) if not self.exact and not self.distribution else 1.0
        self.values = kept if self.exact else (kept / (self.scale or 1.0)).astype(np.float16)

    def divergence(self, array: np.ndarray) -> float:
        if array.shape != self.shape:
            return 1.0
        if not len(self.picked):
            return 0.0
        other = _rows(array)[self.picked]
        if self.exact:
            return float(np.mean(other != self.values))
        mine = self.values.astype(np.float32) * np.float32(self.scale)
        if self.distribution:
            return _divergence_kl(mine, other.astype(np.float32))
        norm = float(np.linalg.norm(mine))
        return float(np.linalg.norm(other - mine)) / max(norm, _TINY)


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
