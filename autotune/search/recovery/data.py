"""What a trial is trained on: a part for the steps, a part that tells when to stop, and which samples count more."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from autotune import slices
from autotune.config import StudyConfig
from autotune.errors import DataError
from autotune.trial import Trial
from autotune.workload import Dataset, Sample

_VALIDATION = 10  # one sample in so many
_MOST = 500  # samples of validation: it is looked at again and again
_HEAVIEST = 4.0  # limits of a slice's drop that are counted at most: one broken slice must not be all that is learned


def split(train: Dataset) -> tuple[Dataset, Dataset]:
    """The part to train on and the part to validate with, a tenth of the samples, at most 500 of those.

    A sample's id decides, so that neither the order nor further samples move it. Raises `DataError` for fewer than two
    samples.
    """
    if len(train) < 2:
        raise DataError(f"data set {train.name!r} has {len(train)} sample; recovery needs two, one to validate with")
    ranked = sorted(train.samples, key=_rank)
    held = [sample for sample in ranked if _rank(sample) % _VALIDATION == 0][:_MOST] or ranked[:1]
    if len(held) == len(train):
        held = held[:-1]
    names = {sample.id for sample in held}
    rest = [sample for sample in train.samples if sample.id not in names]
    return Dataset(train.name, rest), Dataset(f"{train.name} (validation)", held)


def weights(
    train: Dataset, known: Mapping[str, slices.Declaration], trial: Trial, config: StudyConfig
) -> dict[str, float]:
    """Sample id -> 1 + the drop of its worst slice over that slice's limit, at most 5; samples of 1 are left out.

    `known` are the slices that the search data are cut into, by name. Each is looked for in the training data by
    metadata and labels, and left out where those do not tell.
    """
    heaviest = np.zeros(len(train))
    for name, declaration in known.items():
        drop = trial.metrics.get(f"drop/{name}")
        if drop is None or drop.value <= 0:
            continue
        try:
            mask = slices.assign(train, [declaration], floor=1)[name]
        except DataError:
            continue  # the training data do not have this column, or are all of this slice
        limits = drop.value / config.slice_limits.get(name, config.drop_limit)
        heaviest = np.where(mask, np.maximum(heaviest, min(limits, _HEAVIEST)), heaviest)
    return {s.id: float(1 + extra) for s, extra in zip(train.samples, heaviest, strict=True) if extra > 0}


def _rank(sample: Sample) -> int:
    return int.from_bytes(hashlib.sha256(sample.id.encode()).digest()[:8], "big")
