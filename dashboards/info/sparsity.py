"""What zeros buy on each target: measured once, the model with most zeros against the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from autotune.search.zeros import Meta, known
from autotune.trial import Value


class SparsityRow(NamedTuple):
    """One choice, made wherever it is offered, on one target. `saved`: share of the download that it takes away.

    `time` over that of the dense model; None where it was not measured, for the reason in `verdict`.
    """

    target: str
    choice: str
    layers: int
    download: int  # bytes
    dense_download: int
    saved: float
    time: Value | None
    faster: bool
    verdict: str
    undecided: bool = False  # timed, and not told apart from the dense model


def sparsity(store: Meta, targets: Sequence[str]) -> tuple[SparsityRow, ...]:
    """Of all targets of a study; empty where nothing was measured. Raises `DataError` for a damaged record."""
    return tuple(
        SparsityRow(
            target=each.target,
            choice=each.choice,
            layers=each.layers,
            download=each.download,
            dense_download=each.dense_download,
            saved=1 - each.download / each.dense_download if each.dense_download else 0.0,
            time=each.time,
            faster=each.faster,
            verdict=each.speed.partition(":")[0] if each.time is not None else each.failure,
            undecided=each.undecided,
        )
        for target in targets
        for each in known(store, target)
    )
