"""Batches as a training takes them: epoch after epoch, as many samples as a step wants, as torch tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from autotune.errors import UsageError
from autotune.recover.batching import Batch
from autotune.recover.operators.node import Tensor
from autotune.recover.settings import Settings


def lessons(batches: Iterable[Batch], settings: Settings) -> Iterator[list[Batch]]:
    """For every step batches of together at least `settings.batch` samples that count.

    Raises `UsageError` where an epoch holds nothing to learn from.
    """
    endless = _endless(batches)
    while True:
        taken: list[Batch] = []
        while sum(len(batch.weights) for batch in taken) < settings.batch:
            batch = next(endless)
            if batch.weights.any() or not settings.sample_weights:
                taken.append(batch)
        yield taken


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """What a model is given."""
    return {name: torch.from_numpy(np.array(array)) for name, array in batch.inputs.items()}


def counts_of(batch: Batch, settings: Settings) -> Tensor:
    """How much each sample counts, float32 [samples]."""
    counted = batch.weights if settings.sample_weights else np.ones_like(batch.weights)
    return torch.from_numpy(np.array(counted, np.float32))


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        weight = 0.0
        for batch in batches:
            weight += float(np.sum(batch.weights))
            yield batch
        if not weight > 0:
            raise UsageError(
                "recover: there are no training samples (any more); give batches that can be iterated anew"
            )
