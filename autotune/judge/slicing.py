"""Slices that depend on the original's answers: difficulty and size of a sample, fitted once and applied anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autotune.judge.predictions import Predictions
from autotune.slices import AUTOMATIC, Declaration, columns_of
from autotune.slices.automatic import Automatic, Bands, difficulties, fit_bands, input_size, wanted
from autotune.workload import Dataset


def asked_for(declarations: Iterable[Declaration], automatic: Sequence[Automatic]) -> tuple[Automatic, ...]:
    """The computed columns that are needed: those of `automatic`, and those that a declaration names."""
    named = {column for each in declarations for column in columns_of(each)}
    return tuple(kind for kind in AUTOMATIC if kind in automatic or kind in named)


def fit_automatic(dataset: Dataset, kinds: Sequence[Automatic], original: Predictions | None) -> tuple[Bands, ...]:
    """Bands of difficulty and size; none of a kind where the samples do not differ, or a metadata column has its name.

    Difficulty is the original's confidence. Where its outputs tell none there are no bands of difficulty: cutting by
    whether the original was right would make every band look worse than it is, since the right ones can only flip
    one way. Without the `original`'s answers there are those of size alone.
    """
    fitted = (fit_bands(_values(dataset, kind, original), kind) for kind in wanted(dataset, kinds))
    return tuple(bands for bands in fitted if bands is not None)


def automatic_columns(
    dataset: Dataset, bands: Iterable[Bands], original: Predictions | None
) -> dict[str, Sequence[str | None]]:
    """Column -> the word of each sample as it was given; perturbed copies share that of what they were made from."""
    return {each.kind: each.apply(_values(dataset, each.kind, original)) for each in bands}


def _values(dataset: Dataset, kind: Automatic, original: Predictions | None) -> list[float | None]:
    given = [index for index, sample in enumerate(dataset.samples) if not sample.perturbation]
    if kind == "size":
        return [input_size(dataset.samples[index]) for index in given]
    known = difficulties(original.confidence) if original is not None else []
    return [known[index] for index in given] if known else [None] * len(given)
