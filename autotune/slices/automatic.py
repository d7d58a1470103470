"""Slices that nobody has to declare: how hard a sample is for the original model, and how large its input is.

Each is a column of three words, cut at thirds of the search data. The edges are kept and applied to other data, so
that "hard" means the same there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from autotune.slices.bands import band_edges
from autotune.slices.columns import AUTOMATIC, Collection

Automatic = Literal["difficulty", "size"]

WORDS: dict[str, tuple[str, ...]] = {  # kind -> names of its bands, from low values to high ones
    "difficulty": ("hard", "medium", "easy"),  # by confidence: low is hard
    "size": ("small", "medium", "large"),
}
MASKS = "mask"  # an input with this in its name says which tokens count


class Sized(Protocol):
    """What the size of a sample is read off; `workload.Sample` is one."""

    @property
    def inputs(self) -> Mapping[str, np.ndarray]: ...


class Bands(BaseModel):
    """A column of numbers in bands: `words[i]` for a value below `edges[i]`, the last word from the last edge on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Automatic
    edges: tuple[float, ...]
    words: tuple[str, ...]

    def apply(self, values: Sequence[float | None]) -> list[str | None]:
        """The word of each value, None for a value that is None or NaN."""
        numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
        places = np.searchsorted(np.array(self.edges), numbers, side="right")
        return [
            None if np.isnan(number) else self.words[int(place)] for number, place in zip(numbers, places, strict=True)
        ]


def fit_bands(values: Sequence[float | None], kind: Automatic) -> Bands | None:
    """Three bands with about as many of `values` each, or two where values repeat too often for three.

    None where the values do not vary: right-or-wrong scores that are all right, inputs of one shape. None and NaN among
    the values count for nothing.
    """
    numbers = np.array([value for value in values if value is not None and not np.isnan(value)], dtype=float)
    edges = band_edges(numbers, 3)
    if not edges and len(numbers) and numbers.min() < numbers.max():
        # More than two thirds are the lowest value: the few above it are a band of their own.
        edges = (float(numbers[numbers > numbers.min()].min()),)
    if not edges:
        return None
    words = WORDS[kind]
    return Bands(kind=kind, edges=edges, words=words if len(edges) == 2 else (words[0], words[-1]))


def difficulties(
    confidence: Sequence[float | None] | None, scores: Sequence[float] | None = None
) -> list[float | None]:
    """What bands of difficulty are cut by: the original's confidence in each sample, its score where it has none.

    None for a sample that has neither. Scores and confidences never mix: one confidence that is missing or NaN makes
    all of them scores, where there are scores.
    """
    known = [None if value is None or np.isnan(value) else float(value) for value in confidence or ()]
    if scores is not None and (not known or None in known):
        return [None if np.isnan(score) else float(score) for score in scores]
    return known


def input_size(sample: Sized) -> float:
    """How large a sample's input is: the tokens that an attention mask lets through where an input has "mask" in its
    name, else the number of elements of all inputs."""
    masks = [array for name, array in sample.inputs.items() if MASKS in name.lower()]
    if masks:
        return float(max(np.count_nonzero(array) for array in masks))
    return float(sum(array.size for array in sample.inputs.values()))


def wanted(data: Collection, kinds: Sequence[Automatic]) -> tuple[Automatic, ...]:
    """The kinds that the data have no metadata column of that name for: what a user gives comes first."""
    given = {name for sample in data.samples for name in sample.metadata}
    return tuple(kind for kind in AUTOMATIC if kind in kinds and kind not in given)
