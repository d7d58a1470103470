"""What the outputs say beside the predictions: divergence from the original, and how sure the models are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from autotune.evaluation import Outcome, SliceResult
from autotune.judge import calibration, intervals
from autotune.judge.intervals import Flags, Floats
from autotune.judge.predictions import Predictions
from autotune.judge.scores import Scored
from autotune.slices import Mask


class Outputs:
    """Divergence and confidence of both models, where they are known. `right`: samples that each gets right."""

    def __init__(self, original: Predictions, candidate: Predictions, right: tuple[Flags, Flags] | None) -> None:
        self._divergence = _array(candidate.divergence)
        self._right, self._sure = right, (_array(original.confidence), _array(candidate.confidence))

    def add(self, result: SliceResult, mask: Mask) -> SliceResult:
        """`result` with the divergence and calibration of its samples."""
        found: dict[str, Any] = {}
        if self._divergence is not None:
            values = self._divergence[mask]
            found["kl"] = intervals.mean(values, span=0.0, within=(0.0, math.inf))
            found["kl_p99"] = float(np.quantile(values, 0.99))
        before, after = self._sure
        if self._right is not None and before is not None and after is not None:
            sides = (before[mask], self._right[0][mask]), (after[mask], self._right[1][mask])
            found["overconfident_original"], found["overconfident_candidate"] = (
                calibration.overconfident(*side) for side in sides
            )
            if result.n >= calibration.SMALLEST:
                found["ece_original"], found["ece_candidate"] = (calibration.calibration_error(*side) for side in sides)
                found["ece_change"] = calibration.calibration_change(*sides[0], *sides[1])
        return result.model_copy(update=found)


def _array(values: Sequence[float] | None) -> Floats | None:
    return None if values is None else np.array(values, dtype=np.float64)


def outcomes(original: Predictions, candidate: Predictions, scored: Scored) -> tuple[Outcome, ...]:
    """One record per sample."""
    nothing = (None,) * len(original.ids)
    columns = (
        original.ids,
        original.predictions,
        candidate.predictions,
        scored.original.tolist(),
        scored.candidate.tolist(),
        original.confidence or nothing,
        candidate.confidence or nothing,
        candidate.divergence or nothing,
    )
    return tuple(
        Outcome(
            id=sample,
            original=before,
            candidate=after,
            original_score=old,
            candidate_score=new,
            original_confidence=sure,
            candidate_confidence=surer,
            divergence=divergence,
        )
        for sample, before, after, old, new, sure, surer, divergence in zip(*columns, strict=True)
    )
