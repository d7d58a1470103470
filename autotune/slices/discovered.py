"""Slices that nobody thought of: what the samples have in common on which compressed models disagree with the original.

Every value and every pair of values of two columns is a candidate, as in SliceLine (Sagadeeva and Boehm, SIGMOD 2021);
at depth 2 all of them are looked at, so nothing has to be pruned. A candidate counts when its samples disagree more
than their share by a margin that chance does not give to the best of all candidates: the largest statistic under random
permutations (Westfall and Young 1993), which keeps the chance of any false discovery at `LEVEL`, however many
candidates there are. What difficulty and size explain, and what was found before, is taken out: permutations go within
strata of them.

What is found here was looked for in these data. It is a hypothesis until other data confirm it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.errors import DataError
from autotune.slices.bands import band_edges
from autotune.slices.columns import ALL, AUTOMATIC, LABEL, Collection, Mask, Population
from autotune.slices.combinations import And
from autotune.slices.declaration import RESERVED, Declaration
from autotune.slices.expressions import ByThreshold, ByValue, Condition

LEVEL = 0.02  # chance of any discovery where there is nothing
PERMUTATIONS = 499
SUPPORT = 30  # samples that a discovered slice has at least
MAX_VALUES = 30  # of a column; one with more different words is a name rather than a description
MAX_CELLS = 20_000_000  # samples times candidates: seconds of work, not minutes
ALIKE = 0.5  # a discovery that shares this part of its samples with another says nothing new
PREFIX = "discovered: "

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Discovery:
    """One description. `share` and `share_else` are the mean disagreement in it and outside of it, `lift` their ratio
    (infinite where nothing disagrees outside), `p_value` that of the best of all candidates under permutation."""

    declaration: Declaration
    n: int
    share: float
    share_else: float
    p_value: float

    @property
    def lift(self) -> float:
        return self.share / self.share_else if self.share_else > 0 else float("inf")


def discover(
    data: Collection,
    disagreements: ArrayLike,
    *,
    most: int,
    columns: Mapping[str, Sequence[object]] | None = None,
    known: Mapping[str, Mask] | None = None,
    support: int = SUPPORT,
    seed: int = 0,
) -> list[Declaration]:
    """At most `most` declarations, by lift, of what the samples have in common on which compressed models disagree with
    the original; none where chance explains it. Their names begin with "discovered: ".

    Arguments and errors as in `describe`.
    """
    found = describe(data, disagreements, most=most, columns=columns, known=known, support=support, seed=seed)
    return [each.declaration for each in found]


def describe(
    data: Collection,
    disagreements: ArrayLike,
    *,
    most: int,
    columns: Mapping[str, Sequence[object]] | None = None,
    known: Mapping[str, Mask] | None = None,
    support: int = SUPPORT,
    seed: int = 0,
) -> list[Discovery]:
    """As `discover`, with the numbers behind each.

    `disagreements`: `[n]`, how many (or what share) of the compressed models answer sample i differently from the
    original. Perturbed samples are left aside. `columns` are computed columns, `known` the slices that are judged
    anyhow: what describes the same samples as one of them is no discovery. Raises `DataError` for disagreements of
    another length, and NaN among them.
    """
    population = Population.of(data, columns)
    values = np.asarray(disagreements, dtype=float)
    if values.shape != (len(population),) or not np.isfinite(values).all():
        raise DataError(
            f"disagreements have the shape {values.shape} for {len(population)} samples of the {data.name} data; "
            "give one finite number per sample"
        )
    given = population.given()
    values = values[given]
    taken = {mask[given].tobytes() for name, mask in (known or {}).items() if name != ALL}
    candidates = [
        (condition, mask) for condition, mask in _candidates(population, given, support) if mask.tobytes() not in taken
    ]
    strata = _strata(population, given)
    found: list[Discovery] = []
    rng = np.random.default_rng(seed)
    while candidates and len(found) < most:
        masks = np.stack([mask for _, mask in candidates])
        observed, chance = _statistics(values, masks, strata, rng)
        best = int(np.argmax(observed))
        p_value = (1 + int((chance >= observed[best]).sum())) / (1 + len(chance))
        if observed[best] <= 0 or p_value > LEVEL:
            break
        condition, mask = candidates.pop(best)
        found.append(_discovery(condition, mask, values, p_value))
        strata = _refined(strata, mask)
        candidates = [(each, other) for each, other in candidates if _overlap(mask, other) < ALIKE]
    return sorted(found, key=lambda each: -each.lift)


def _discovery(condition: Condition, mask: Mask, values: Floats, p_value: float) -> Discovery:
    declaration = Declaration(condition.text, PREFIX + condition.text, "discovered")
    return Discovery(declaration, int(mask.sum()), float(values[mask].mean()), float(values[~mask].mean()), p_value)


def _overlap(one: Mask, other: Mask) -> float:
    """Part of the samples of either that both share."""
    return float((one & other).sum() / (one | other).sum())


def _candidates(population: Population, given: Mask, support: int) -> list[tuple[Condition, Mask]]:
    """Values and thresholds of all columns and their pairs that at least `support` samples are in, and as many are not.

    The automatic columns are slices already: they only appear in pairs. Of candidates with the same samples, the first
    and shortest stays. Columns with few conditions come first, so that those are whole where there are too many pairs.
    """
    singles = [
        (condition, mask[given])
        for column in _columns(population)
        for condition in _conditions(population, column, given)
        if "@" not in condition.text and "\n" not in condition.text and condition.text not in RESERVED
        if (mask := condition.mask(population))[given].sum() >= support
    ]
    distinct: dict[bytes, tuple[Condition, Mask]] = {}
    for condition, mask in singles:
        if (~mask).sum() >= support and not population.is_computed(min(condition.columns())):
            distinct.setdefault(mask.tobytes(), (condition, mask))
    reserved = {mask.tobytes() for _, mask in singles}
    for (one, first), (other, second) in itertools.combinations(singles, 2):
        if len(distinct) * len(first) >= MAX_CELLS:
            break
        both = first & second
        if one.columns() == other.columns() or both.sum() < support or (~both).sum() < support:
            continue
        key = both.tobytes()
        if key not in reserved:  # as narrow as one of its parts: that one describes it
            distinct.setdefault(key, (And((one, other)), both))
    return list(distinct.values())


def _columns(population: Population) -> list[str]:
    given = {name for sample in population.samples for name in sample.metadata}
    names = {*given, *population.computed, LABEL}
    return sorted(names, key=lambda name: (len(population.values(name)), name))


def _conditions(population: Population, column: str, given: Mask) -> list[Condition]:
    """Values of a column of words; below and from each third of a column of many numbers."""
    values = population.column(column)
    texts = population.values(column)
    if len(texts) <= MAX_VALUES and len(texts) <= max(2, int(given.sum()) // 2):
        return [ByValue(column, text) for text in texts]
    present = [value for value in values if value is not None]
    if not all(isinstance(value, int | float | np.integer | np.floating) for value in present):
        return []
    numbers = np.array([value for value, here in zip(values, given, strict=True) if here and value is not None], float)
    edges = band_edges(numbers[~np.isnan(numbers)], 6)
    return [ByThreshold(column, sign, edge) for edge in edges for sign in ("<", ">=")]


def _strata(population: Population, given: Mask) -> NDArray[np.int64]:
    """Samples that are alike in the automatic columns have the same number."""
    strata = np.zeros(int(given.sum()), dtype=np.int64)
    for name in AUTOMATIC:
        if population.is_computed(name):
            texts = np.array([text or "" for text in population.texts(name)])[given]
            strata = _refined(strata, np.unique(texts, return_inverse=True)[1])
    return strata


def _refined(strata: NDArray[np.int64], by: NDArray[np.int64] | Mask) -> NDArray[np.int64]:
    pairs = np.stack([strata, by.astype(np.int64)], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].astype(np.int64).reshape(-1)


def _statistics(
    values: Floats, masks: NDArray[np.bool_], strata: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """How far the sum over each candidate is above its expectation within strata, in standard deviations
    `[candidates]`; and the largest of these in each permutation `[PERMUTATIONS]`.

    Expectation and variance are those of drawing as many of each stratum without replacement.
    """
    centred = np.zeros_like(values)
    variance = np.zeros(len(masks))
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    for rows in members:
        centred[rows] = values[rows] - values[rows].mean()
        if len(rows) > 1:
            inside = masks[:, rows].sum(axis=1)
            variance += centred[rows].var() * inside * (len(rows) - inside) / (len(rows) - 1)
    drawn = np.tile(centred.astype(np.float32)[:, None], PERMUTATIONS + 1)
    for rows in members:
        drawn[rows, 1:] = rng.permuted(drawn[rows, 1:], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = (masks.astype(np.float32) @ drawn) / np.sqrt(variance)[:, None]
    scores = np.where(variance[:, None] > 1e-12, scores, 0.0)
    return scores[:, 0].astype(float), scores[:, 1:].max(axis=0).astype(float)
