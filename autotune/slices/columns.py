"""The columns that slices are made of: metadata, labels, and what was computed for each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from autotune.errors import AutotuneError, DataError, UsageError, did_you_mean

ALL = "all"  # the slice of every sample as it was given; always the first
LABEL = "label"
AUTOMATIC: tuple[Literal["difficulty"], Literal["size"]] = (
    "difficulty",
    "size",
)  # columns that are computed, not given

Mask = NDArray[np.bool_]


class Tagged(Protocol):
    """What a slice needs to know of a sample; `workload.Sample` is one."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> Any: ...
    @property
    def metadata(self) -> Mapping[str, str | int | float | bool]: ...
    @property
    def perturbation(self) -> str: ...


class Collection(Protocol):
    """What a slice needs to know of the data; `workload.Dataset` is one."""

    @property
    def name(self) -> str: ...
    @property
    def samples(self) -> Sequence[Tagged]: ...


@dataclass(frozen=True)
class Population:
    """The samples of a data set, as the parts of a declaration see them.

    `perturbations[i]` is how sample i was made, "" where it is as it was given. `computed` are columns beside the
    metadata, one value per sample, None where a sample has none. In the data that a declaration is first read on,
    `strict`, a value that no sample has is a mistake; in those that are judged later it is merely absent. `functions`
    are the workload's own, by name.
    """

    name: str
    samples: Sequence[Tagged]
    perturbations: Sequence[str]
    computed: Mapping[str, Sequence[object]] = field(default_factory=dict)
    strict: bool = True
    functions: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    _texts: dict[str, list[str | None]] = field(default_factory=dict, compare=False, repr=False)
    _held: dict[str, Mask] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        data: Collection,
        columns: Mapping[str, Sequence[object]] | None = None,
        *,
        strict: bool = True,
        functions: Mapping[str, Callable[[Any], bool]] | None = None,
    ) -> Population:
        """All samples of a data set. A column of `columns` has a value per sample, or one per sample as it was
        given, which its perturbed copies then share. Raises `DataError` for one of another length."""
        samples = list(data.samples)
        made = [sample.perturbation for sample in samples]
        computed = {name: _spread(name, list(values), samples, data.name) for name, values in (columns or {}).items()}
        return cls(data.name, samples, made, computed, strict, functions or {})

    def __len__(self) -> int:
        return len(self.samples)

    def given(self) -> Mask:
        """Which samples are as they were given."""
        return np.array([not made for made in self.perturbations], dtype=bool)

    def reference(self) -> Mask:
        """The samples whose values say what a column is like: those as they were given, all where there is none."""
        given = self.given()
        return given if given.any() else ~given

    def column(self, name: str) -> list[Any]:
        """The column's value of each sample, None where a sample has none: metadata first, then what was computed,
        then the labels. Raises `DataError` for a column that does not exist."""
        found = [sample.metadata.get(name) for sample in self.samples]
        if any(value is not None for value in found):
            return found
        if name in self.computed:
            return list(self.computed[name])
        if name == LABEL:
            return [sample.label for sample in self.samples]
        known = {each for sample in self.samples for each in sample.metadata} | {LABEL, *self.computed}
        raise DataError(f"no sample of the {self.name} data has the column {name!r}; {did_you_mean(name, known)}")

    def is_computed(self, name: str) -> bool:
        """True for a column that `column` would take from what was computed."""
        return name in self.computed and not any(name in sample.metadata for sample in self.samples)

    def texts(self, name: str) -> list[str | None]:
        """The column's values as declarations write them."""
        if name not in self._texts:
            self._texts[name] = [None if value is None else text_of(value) for value in self.column(name)]
        return self._texts[name]

    def numbers(self, name: str, asked: str) -> NDArray[np.float64]:
        """The column as numbers, NaN where a sample has none. Raises `DataError`, in the name of the slice `asked`, for
        a value that is no number."""
        values = self.column(name)
        for sample, value in zip(self.samples, values, strict=True):
            if value is not None and not isinstance(value, int | float | np.integer | np.floating):
                raise DataError(
                    f"slice {asked} of {self.name} compares numbers, but sample {sample.id} has "
                    f"{name}={value!r}; declare {name} or {name}={value} instead"
                )
        return np.array([np.nan if value is None else float(value) for value in values])

    def holds(self, name: str) -> Mask:
        """Of which samples a function says that they are in; a perturbed copy shares what it says of its source.

        Raises `UsageError` for a function that does not exist, `DataError` for one that raises or gives anything else
        than True or False.
        """
        if name not in self._held:
            function = self.functions.get(name)
            if function is None:
                advice = did_you_mean(name, self.functions) if self.functions else "the workload declares none"
                raise UsageError(
                    f"slice {name}(): there is no function {name!r}; {advice} (a perturbation needs a strength, e.g. "
                    "blur(2))"
                )
            said: dict[str, bool] = {}
            for sample in sorted(self.samples, key=lambda each: bool(each.perturbation)):
                source = source_of(sample)
                if source not in said:
                    said[source] = self._said(name, function, sample)
            self._held[name] = np.array([said[source_of(sample)] for sample in self.samples], dtype=bool)
        return self._held[name]

    def _said(self, name: str, function: Callable[[Any], bool], sample: Tagged) -> bool:
        where = f"slice {name} of the {self.name} data: its function"
        try:
            said: object = function(sample)
        except AutotuneError:
            raise
        except Exception as error:  # the user's own code may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(f"{where} raised {reason} for sample {sample.id!r}") from error
        if not isinstance(said, bool | np.bool_):
            raise DataError(
                f"{where} gave {said!r:.40} ({type(said).__name__}) for sample {sample.id!r}; it must give True or "
                "False (to slice by other values, put them into Sample.metadata and declare the column)"
            )
        return bool(said)

    def values(self, name: str) -> list[str]:
        """The different values of a column, numbers first and in their order."""
        return sorted({text for text in self.texts(name) if text is not None}, key=_natural)

    def covers_nothing(self, name: str) -> str:
        """What there is to say about a slice without a sample."""
        return f"slice {name} covers none of the {len(self)} samples of the {self.name} data"


def text_of(value: object) -> str:
    """A value as declarations write it."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)


def number_text(value: float) -> str:
    """A number as slice names show it: six digits where they say it all."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value)).removesuffix(".0")


def source_of(sample: Tagged) -> str:
    """Id of the sample that this one was made from; its own where it is as it was given."""
    return sample.id.removesuffix(f"~{sample.perturbation}") if sample.perturbation else sample.id


def _natural(text: str) -> tuple[int, float, str]:
    """Sort key: numbers by value and before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _spread(name: str, values: list[object], samples: Sequence[Tagged], data: str) -> list[object]:
    if len(values) == len(samples):
        return values
    given = [sample.id for sample in samples if not sample.perturbation]
    if len(values) != len(given):
        raise DataError(
            f"the computed column {name!r} has {len(values)} values for the {len(samples)} samples of the {data} data; "
            "give one per sample"
        )
    by_id = dict(zip(given, values, strict=True))
    return [by_id.get(source_of(sample)) for sample in samples]
