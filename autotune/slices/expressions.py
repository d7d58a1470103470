"""What a declaration is made of. A `Condition` is one slice; a `Family` stands for several and expands to conditions.

Each knows its canonical text, which `autotune.slices.parsing` reads back to the same, the columns and perturbations it
names, and, for a condition, which samples are in it.
"""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.errors import DataError, did_you_mean
from autotune.slices.columns import Mask, Population, number_text

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PLAIN = re.compile(r"[^\s&|!()*<>={},\"'](?:[^&|!()*<>={},\"']*[^\s&|!()*<>={},\"'])?")


def quoted(word: str) -> str:
    """A column or value as a declaration writes it: in quotes where it holds a sign of the language."""
    if _PLAIN.fullmatch(word) and " in " not in f" {word} ":
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Node(ABC):
    """A part of a declaration."""

    @property
    def depth(self) -> int:
        """How many columns' values a family multiplies; 0 for a single slice."""
        return 0

    @property
    def parts(self) -> tuple[Node, ...]:
        """What it is put together from."""
        return ()

    @property
    @abstractmethod
    def text(self) -> str:
        """As a declaration writes it."""

    @property
    def name(self) -> str:
        """What the slice is called where nobody gave it a name."""
        return self.text

    def columns(self) -> frozenset[str]:
        """The columns that it looks at."""
        return frozenset(column for part in self.parts for column in part.columns())

    def made_by(self) -> frozenset[str]:
        """The perturbations that it names; empty: it is about samples as they were given."""
        return frozenset(made for part in self.parts for made in part.made_by())

    def functions(self) -> frozenset[str]:
        """The functions of the workload that it calls."""
        return frozenset(name for part in self.parts for name in part.functions())

    @abstractmethod
    def conditions(self, population: Population) -> list[Condition]:
        """The slices that it stands for. Raises `DataError` for a column that does not exist or gives none."""


class Condition(Node):
    """A part that says of every sample whether it is in."""

    def conditions(self, population: Population) -> list[Condition]:
        return [self]

    @abstractmethod
    def mask(self, population: Population) -> Mask:
        """Which samples are in, `[n]` bool. Raises `DataError` naming the column."""


@dataclass(frozen=True)
class ByValue(Condition):
    """The samples with one value (as text) in a column; `only` None stands for one slice per value."""

    column: str
    only: str | None = None

    @property
    def depth(self) -> int:
        return 1 if self.only is None else 0

    @property
    def text(self) -> str:
        return quoted(self.column) if self.only is None else f"{quoted(self.column)}={quoted(self.only)}"

    @property
    def name(self) -> str:
        return self.column if self.only is None else f"{self.column}={self.only}"

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})

    def conditions(self, population: Population) -> list[Condition]:
        if self.only is not None:
            return [self]
        values, n = population.values(self.column), int(population.reference().sum())
        if len(values) > max(2, n // 2):
            raise DataError(
                f"slice {self.column!r} of {population.name} would give {len(values)} slices for {n} "
                f"samples; declare a threshold instead, e.g. {self.column}<{values[len(values) // 2]}"
            )
        return [ByValue(self.column, value) for value in values]

    def mask(self, population: Population) -> Mask:
        _require(population, self.column, (self.only or "",))
        return np.array([text == self.only for text in population.texts(self.column)], dtype=bool)


@dataclass(frozen=True)
class OtherThan(Condition):
    """The samples with another value in a column; those that lack it are not in."""

    column: str
    value: str

    @property
    def text(self) -> str:
        return f"{quoted(self.column)}!={quoted(self.value)}"

    @property
    def name(self) -> str:
        return f"{self.column}!={self.value}"

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})

    def mask(self, population: Population) -> Mask:
        _require(population, self.column, (self.value,))
        return np.array([text is not None and text != self.value for text in population.texts(self.column)], dtype=bool)


@dataclass(frozen=True)
class OneOf(Condition):
    """The samples with one of several values in a column."""

    column: str
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{quoted(self.column)} in {{{', '.join(map(quoted, self.values))}}}"

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})

    def mask(self, population: Population) -> Mask:
        _require(population, self.column, self.values)
        return np.array([text in self.values for text in population.texts(self.column)], dtype=bool)


@dataclass(frozen=True)
class ByThreshold(Condition):
    """The samples whose value in a column is below or above a bound."""

    column: str
    sign: str
    bound: float

    @property
    def text(self) -> str:
        return f"{quoted(self.column)}{self.sign}{number_text(self.bound)}"

    @property
    def name(self) -> str:
        return f"{self.column}{self.sign}{number_text(self.bound)}"

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})

    def mask(self, population: Population) -> Mask:
        return np.asarray(_COMPARE[self.sign](population.numbers(self.column, self.name), self.bound), dtype=bool)


@dataclass(frozen=True)
class Between(Condition):
    """The samples whose value in a column is between two bounds; the signs are < or <=."""

    low: float
    low_sign: str
    column: str
    high_sign: str
    high: float

    @property
    def text(self) -> str:
        return f"{number_text(self.low)}{self.low_sign}{quoted(self.column)}{self.high_sign}{number_text(self.high)}"

    def columns(self) -> frozenset[str]:
        return frozenset({self.column})

    def mask(self, population: Population) -> Mask:
        values = population.numbers(self.column, self.text)
        above = _COMPARE[self.low_sign](self.low, values)
        return np.asarray(above & _COMPARE[self.high_sign](values, self.high), dtype=bool)


@dataclass(frozen=True)
class MadeBy(Condition):
    """The samples that a perturbation made; `argument` is its strength, or a word such as `upper`."""

    function: str
    argument: float | str

    @property
    def text(self) -> str:
        said = number_text(self.argument) if isinstance(self.argument, float) else quoted(self.argument)
        return f"{self.function}({said})"

    def made_by(self) -> frozenset[str]:
        return frozenset({self.text})

    def mask(self, population: Population) -> Mask:
        return np.array([made == self.text for made in population.perturbations], dtype=bool)


@dataclass(frozen=True)
class Holds(Condition):
    """The samples of which a function of the workload says that they are in."""

    function: str

    @property
    def text(self) -> str:
        return f"{quoted(self.function)}()"

    def functions(self) -> frozenset[str]:
        return frozenset({self.function})

    def mask(self, population: Population) -> Mask:
        return population.holds(self.function)


class Family(Node):
    """Several slices at once."""


def _require(population: Population, column: str, wanted: Sequence[str]) -> None:
    """A value that no sample has is a typing mistake in the data that a declaration was written for."""
    there = population.texts(column)
    for value in wanted if population.strict else ():
        if value not in there:
            hint = did_you_mean(f"{column}={value}", [f"{column}={each}" for each in population.values(column)])
            raise DataError(f"{population.covers_nothing(f'{column}={value}')}; {hint}")
