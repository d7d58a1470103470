"""Fronts and hypervolume improvement for any number of minimised objectives, in numpy."""

from __future__ import annotations

import numpy as np

from autotune.search.surrogate.space import Bools, Floats

DRAWS = 6000
KEPT = 1200


def non_dominated(points: Floats) -> Bools:
    """Mask (n,) of the points (n, M) that no other point dominates; of equal points the first stays."""
    order = np.lexsort(points.T[::-1])
    alive = np.zeros(len(points), bool)
    kept: Floats = np.empty((0, points.shape[1]))
    for i in order:
        if not len(kept) or not (kept <= points[i]).all(1).any():
            alive[i] = True
            kept = np.vstack([kept, points[i]])
    return alive


class Improvement:
    """Hypervolume improvement over `front` (n, M), up to `reference` (M,), as an average over random lines.

    All objectives but the last are sampled, and the last is integrated exactly along each line; lines are drawn only
    where `pool` (m, M) promises to beat the front, so none are wasted on what is settled.
    """

    def __init__(self, front: Floats, pool: Floats, reference: Floats, rng: np.random.Generator) -> None:
        self.reference = reference
        inside = pool[(pool < reference).all(1)]
        count = len(reference) - 1
        low = inside[:, :-1].min(0) if len(inside) else reference[:-1]
        draws = DRAWS if count else 1
        lines = low + rng.random((draws, count)) * (reference[:-1] - low)
        depth = _depth(lines, front, reference)
        promise = depth - _depth(lines, inside, reference)
        keep = np.flatnonzero(promise > 0)[:KEPT]
        self.lines = lines[keep]
        self.depth = depth[keep]

    def of(self, points: Floats) -> Floats:
        """Improvement (m,) by each of `points` (m, M) alone."""
        if not len(self.lines):
            return np.zeros(len(points))
        gain = np.maximum(self.depth - points[:, -1:], 0.0)
        for axis in range(self.lines.shape[1]):
            gain *= points[:, axis : axis + 1] <= self.lines[:, axis]
        return np.asarray(gain.mean(1))

    def add(self, point: Floats) -> None:
        """Count `point` (M,) as part of the front from now on."""
        inside = (point[:-1] <= self.lines).all(1)
        self.depth = np.where(inside, np.minimum(self.depth, point[-1]), self.depth)


def _depth(lines: Floats, points: Floats, reference: Floats) -> Floats:
    """Smallest last objective (k,) reached at each line (k, M - 1), at most the reference."""
    depth = np.full(len(lines), reference[-1])
    for point in points:
        inside = (point[:-1] <= lines).all(1)
        depth = np.where(inside, np.minimum(depth, point[-1]), depth)
    return depth
