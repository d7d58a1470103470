"""A long history made short: time and memory of a fit are bounded by its rows and slices."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from autotune.search.surrogate.history import History


def thinned(history: History, most: int) -> History:
    """At most `most` rows: the latest half, which is where the search is, and of the others the first quarter and
    every so many of the rest."""
    n = len(history)
    if n <= most:
        return history
    late, first = most // 2, most // 4
    between = np.linspace(first, n - late, most - late - first, endpoint=False).astype(np.int64)
    keep = np.concatenate([np.arange(first), between, np.arange(n - late, n)])
    return History(history.configs[keep], history.values[keep], history.damage[keep], history.drop[keep],
                   history.slices, history.numbers[keep])  # fmt: skip


def with_slices(history: History, names: Collection[str], most: int) -> History:
    """With the slices `names`, and of the others those that drop most, `most` together."""
    if len(history.slices) <= most:
        return history
    known = np.isfinite(history.drop)
    mean = np.where(known, history.drop, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    wanted = np.array([name in names for name in history.slices])
    chosen = np.sort(np.lexsort([-mean, ~wanted])[:most])
    return History(history.configs, history.values, history.damage[:, chosen], history.drop[:, chosen],
                   tuple(history.slices[i] for i in chosen), history.numbers)  # fmt: skip
