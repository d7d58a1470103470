"""What is checked before samples are compared: predictions and masks that fit the data, a metric that compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.errors import DataError
from autotune.judge.metrics import ResolvedMetric
from autotune.judge.predictions import Predictions
from autotune.judge.scores import Scored, same
from autotune.slices import ALL, Mask
from autotune.workload import Dataset

EXCHANGED = 500  # samples whose label or prediction is exchanged for that of another one; more tell nothing new
FEWEST = 20  # exchanges of which not one changes a score; of fewer that may be chance


def check_predictions(dataset: Dataset, original: Predictions, candidate: Predictions) -> None:
    """Raises `DataError` where predictions are not one for each sample of these data."""
    ids = tuple(sample.id for sample in dataset.samples)
    if original.ids != ids or candidate.ids != ids:
        raise DataError(
            f"the predictions are not those of the {dataset.name} data; judge the samples they were made of"
        )
    for who, given in (("original", original), ("candidate", candidate)):
        lists = {"predictions": given.predictions, "confidence": given.confidence, "divergence": given.divergence}
        for what, values in lists.items():
            if values is not None and len(values) != len(ids):
                raise DataError(
                    f"{what} of the {who}: {len(values)} values for {len(ids)} samples of the {dataset.name} data; "
                    "give one for each id, in the order of the samples"
                )


def check_masks(masks: Mapping[str, Mask], dataset: Dataset) -> None:
    """Raises `DataError` for a mask that is not `[n]` bool over these samples or selects none, and without "all"."""
    n = len(dataset.samples)
    for name, mask in masks.items():
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (n,):
            kind = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise DataError(
                f"mask of slice {name!r}: {kind}, but the {dataset.name} data have {n} samples; give a numpy array of "
                f"bool of shape ({n},)"
            )
        if not mask.any():
            raise DataError(
                f"mask of slice {name!r}: it selects none of the {n} samples of the {dataset.name} data; leave this "
                "slice out, or give it samples"
            )
    if ALL not in masks:
        raise DataError(f"masks: there is none of the slice {ALL!r}; add one that selects every sample")


def doubt(metric: ResolvedMetric, labels: Sequence[Any], original: Predictions, scored: Scored) -> str | None:
    """Why a metric that is a mean over samples may not compare predictions with labels; None where it does.

    Samples get the label of another sample (permuted by a fixed seed) that differs from their own. A metric that
    compares them changes some score: then even a perfect score everywhere is no reason for doubt. Where all labels are
    alike nothing can be exchanged, and only scores that are the same everywhere are told. In the same way: samples that
    get the prediction for another sample.
    """
    if not scored.per_sample or len(labels) < 2:
        return None
    truth, answers = metric.parts(labels), metric.parts(original.predictions)
    other = np.random.default_rng(0).permutation(len(truth)).tolist()
    by_label = [i for i, j in enumerate(other) if _differ(truth[i], truth[j])][:EXCHANGED]
    by_answer = [i for i, j in enumerate(other) if _differ(answers[i], answers[j])][:EXCHANGED]
    label_tells = _changes(
        metric, [answers[i] for i in by_label], [truth[other[i]] for i in by_label], scored, by_label
    )
    advice = "check that it compares predictions with labels"
    values = np.concatenate([scored.original, scored.candidate])
    if bool((values == values[0]).all()) and not label_tells:
        also = f", and also with the labels of other samples ({len(by_label)} tried)" if by_label else ""
        return f"the metric {metric.name!r} gives {values[0]:g} for every sample of both models{also}; {advice}"
    if len(by_label) >= FEWEST and not label_tells:
        return f"the metric {metric.name!r} gives {len(by_label)} samples the same score with a wrong label; {advice}"
    moved = [answers[other[i]] for i in by_answer]
    if len(by_answer) >= FEWEST and not _changes(metric, moved, [truth[i] for i in by_answer], scored, by_answer):
        return (
            f"the metric {metric.name!r} gives {len(by_answer)} samples the same score with the prediction for another "
            f"sample; {advice}"
        )
    return None


def _differ(one: Any, other: Any) -> bool:
    try:
        return not same(one, other)
    except (ValueError, TypeError, RuntimeError):  # values that cannot be compared, as mappings of arrays
        return False


def _changes(
    metric: ResolvedMetric, predictions: Sequence[Any], labels: Sequence[Any], scored: Scored, rows: Sequence[int]
) -> bool:
    """Whether any sample of `rows` now has another score than it had; one that has none now has another."""
    scores = metric.singles(predictions, labels)
    return scores is None or bool((scores != scored.original[list(rows)]).any())
