"""A column of numbers in bands."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from autotune.errors import DataError
from autotune.slices.columns import Population, number_text
from autotune.slices.expressions import Between, ByThreshold, Condition, Family, quoted


@dataclass(frozen=True)
class Cuts(Family):
    """A column of numbers in bands: below the first edge, from each edge to the next, and from the last edge on."""

    column: str
    edges: tuple[float, ...]

    @property
    def depth(self) -> int:
        return 1

    @property
    def text(self) -> str:
        return f"cuts({quoted(self.column)}, {', '.join(map(number_text, self.edges))})"

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})

    def conditions(self, population: Population) -> list[Condition]:
        inner = [Between(low, "<=", self.column, "<", high) for low, high in itertools.pairwise(self.edges)]
        last = ByThreshold(self.column, ">=", self.edges[-1])
        return [ByThreshold(self.column, "<", self.edges[0]), *inner, last]


@dataclass(frozen=True)
class Bands(Family):
    """A column of numbers in `count` bands that hold about as many samples each; the data say where the edges are."""

    column: str
    count: int

    @property
    def depth(self) -> int:
        return 1

    @property
    def text(self) -> str:
        return f"bands({quoted(self.column)}, {self.count})"

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})

    def fixed(self, population: Population) -> Cuts:
        """The bands with the edges that these data give. Raises `DataError` where the values do not differ."""
        values = population.numbers(self.column, self.text)[population.reference()]
        edges = band_edges(values[~np.isnan(values)], self.count)
        if not edges:
            raise DataError(
                f"slice {self.text} of {population.name}: the values of {self.column!r} hardly differ, there are no "
                f"bands; declare {quoted(self.column)}=VALUE or a threshold instead"
            )
        return Cuts(self.column, edges)

    def conditions(self, population: Population) -> list[Condition]:
        return self.fixed(population).conditions(population)


def band_edges(values: np.ndarray, count: int) -> tuple[float, ...]:
    """At most `count` - 1 edges that part `values` into bands of about equal size (value < edge: the lower band).

    Written with as few digits as give the same bands. Fewer edges where values repeat; none where they do not differ.
    """
    if not len(values):
        return ()
    quantiles = np.quantile(values, np.arange(1, count) / count, method="higher")
    return tuple(_short(float(edge), values) for edge in sorted(set(quantiles.tolist())) if edge > values.min())


def _short(edge: float, values: np.ndarray) -> float:
    """The number of fewest digits from above the next lower value up to the edge: it parts the values alike."""
    lower = float(values[values < edge].max())
    for digits in range(1, 17):
        for candidate in (edge, (lower + edge) / 2):
            rounded = float(f"{candidate:.{digits}g}")
            if lower < rounded <= edge:
                return rounded
    return edge
