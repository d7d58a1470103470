"""Slices: named subsets of the evaluation data, declared in one line of text each.

    "font"        one slice per value of the metadata column `font`: font=serif, font=mono, ...
    "label"       one slice per class (a metadata column of that name comes first)
    "font=serif"  one slice
    "length<8"    samples whose value is below a threshold; also <=, > and >=

A sample that lacks a column is in none of that column's slices. A new kind of slice is a new class with the
method `masks` and a line in `parse`; nothing else knows how a slice was declared.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autotune.errors import DataError, UsageError, did_you_mean
from autotune.slices.declaration import Declaration

__all__ = ["ALL", "LABEL", "Declaration", "Mask", "SliceRule", "assign", "parse"]

ALL = "all"  # the slice of every sample; always the first
LABEL = "label"

Mask = NDArray[np.bool_]

_DECLARATION = re.compile(r"^\s*(?P<column>[^<>=]+?)\s*(?:(?P<sign><=|>=|<|>|=)\s*(?P<bound>.*?)\s*)?$")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Tagged(Protocol):
    """What a slice needs to know of a sample; `workload.Sample` is one."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> Any: ...
    @property
    def metadata(self) -> Mapping[str, str | int | float | bool]: ...


class Collection(Protocol):
    """What a slice needs to know of the data; `workload.Dataset` is one."""

    @property
    def name(self) -> str: ...
    @property
    def samples(self) -> Sequence[Tagged]: ...


class SliceRule(Protocol):
    """A parsed declaration."""

    def masks(self, data: Collection) -> dict[str, Mask]:
        """Slice name -> which samples are in it, `[n]` bool. Raises `DataError` naming the column or
        slice."""
        ...


@dataclass(frozen=True)
class ByValue:
    """One slice per value of a column, in sorted order; `only` keeps the slice of that value (as text)."""

    column: str
    only: str | None = None

    def masks(self, data: Collection) -> dict[str, Mask]:
        texts = [None if value is None else _text(value) for value in _column(data, self.column)]
        values = sorted({text for text in texts if text is not None}, key=_natural)
        if self.only is not None:
            if self.only not in values:
                hint = did_you_mean(f"{self.column}={self.only}", [f"{self.column}={v}" for v in values])
                raise DataError(_covers_nothing(f"{self.column}={self.only}", data) + f"; {hint}")
            values = [self.only]
        elif len(values) > max(2, len(texts) // 2):
            raise DataError(
                f"slice {self.column!r} of {data.name} would give {len(values)} slices for {len(texts)} "
                f"samples; declare a threshold instead, e.g. {self.column}<{values[len(values) // 2]}"
            )
        return {f"{self.column}={value}": np.array([t == value for t in texts]) for value in values}


@dataclass(frozen=True)
class ByThreshold:
    """The samples whose value in a column is below or above a bound."""

    column: str
    sign: str
    bound: float

    def masks(self, data: Collection) -> dict[str, Mask]:
        name = f"{self.column}{self.sign}{self.bound:g}"
        values = _column(data, self.column)
        for sample, value in zip(data.samples, values, strict=True):
            if value is not None and not isinstance(value, int | float | np.integer | np.floating):
                raise DataError(
                    f"slice {name} of {data.name} compares numbers, but sample {sample.id} has "
                    f"{self.column}={value!r}; declare {self.column} or {self.column}={value} instead"
                )
        compare = _COMPARE[self.sign]
        return {name: np.array([value is not None and compare(value, self.bound) for value in values])}


def parse(declaration: str) -> SliceRule:
    """Read one declaration. Raises `UsageError` where it says nothing that is known."""
    match = _DECLARATION.match(declaration)
    if match is None or match["bound"] == "":
        raise UsageError(
            f"slice {declaration!r} is not understood; declare a column (font), a value (font=serif) or a "
            "threshold (length<8)"
        )
    column, sign, bound = match["column"], match["sign"], match["bound"]
    if sign is None or sign == "=":
        return ByValue(column, bound)
    try:
        return ByThreshold(column, sign, float(bound))
    except ValueError:
        raise UsageError(f"slice {declaration!r}: {bound!r} is not a number") from None


def assign(data: Collection, slices: Iterable[str | Declaration], *, expected: Iterable[str] = ()) -> dict[str, Mask]:
    """Which samples are in which slice: name -> `[n]` bool, "all" first, then in the order of declaration.

    `expected` are slice names that must be there, e.g. those of the search data when the held-out data are
    assigned.

    Raises `DataError` for data without samples, ids that occur twice, an unknown column, and a slice that
    covers nothing; `UsageError` for a declaration that cannot be read.
    """
    if not data.samples:
        raise DataError(f"the {data.name} data hold no sample; give at least one")
    _check_ids(data)
    masks: dict[str, Mask] = {ALL: np.ones(len(data.samples), dtype=bool)}
    for declaration in slices:
        for name, mask in parse(str(declaration)).masks(data).items():
            if "@" in name or name in (ALL, "worst"):
                raise DataError(f"slice {name!r} of {data.name} cannot be named in metric keys; rename the value")
            if not mask.any():
                raise DataError(_covers_nothing(name, data))
            masks[name] = mask
    for name in expected:
        if name not in masks:
            raise DataError(_covers_nothing(name, data) + "; every slice needs samples in both data sets")
    return masks


def _check_ids(data: Collection) -> None:
    seen: set[str] = set()
    for sample in data.samples:
        if sample.id in seen:
            raise DataError(f"sample id {sample.id!r} occurs twice in the {data.name} data; ids must be unique")
        seen.add(sample.id)


def _column(data: Collection, column: str) -> list[Any]:
    """The column's value of each sample, None where a sample has none."""
    found = [sample.metadata.get(column) for sample in data.samples]
    if any(value is not None for value in found):
        return found
    if column == LABEL:
        return [sample.label for sample in data.samples]
    known = {name for sample in data.samples for name in sample.metadata} | {LABEL}
    raise DataError(f"no sample of the {data.name} data has the column {column!r}; {did_you_mean(column, known)}")


def _covers_nothing(name: str, data: Collection) -> str:
    return f"slice {name} covers none of the {len(data.samples)} samples of the {data.name} data"


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)


def _natural(text: str) -> tuple[int, float, str]:
    """Sort key: numbers by value and before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
