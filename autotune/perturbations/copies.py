"""Perturbed copies of samples, made when somebody looks at their inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import overload

import numpy as np

from autotune.errors import AutotuneError, DataError
from autotune.perturbations.protocol import Perturbation, Surroundings
from autotune.perturbations.registry import find
from autotune.perturbations.text import vocabulary
from autotune.slices import AUTOMATIC, Function, MadeBy, Mask, Node, Population, Slices, declared, functions_of, parse
from autotune.workload import Arrays, Dataset, Sample, Workload


def perturbed(
    dataset: Dataset,
    declarations: Slices,
    workload: Workload,
    *,
    seed: int = 0,
    columns: Mapping[str, Sequence[object]] | None = None,
) -> Dataset:
    """The data set with the perturbed copies appended that `declarations` name; itself where they name none.

    A copy of sample ID has the id `ID~blur(2)`, its label and metadata, and inputs that depend on `seed`, its id and
    nothing else. They are made when they are looked at and not kept. Only samples that a declaration covers are copied:
    `blur(2) & font=serif` needs the serif ones. `columns` are computed columns of `dataset`; a declaration that looks
    at an automatic column that is not among them gets a copy of every sample.

    Raises `UsageError` for an unknown perturbation or a strength that cannot be, `DataError` where the first sample has
    nothing that a perturbation can act on.
    """
    given = [index for index, sample in enumerate(dataset.samples) if not sample.perturbation]
    calls: dict[str, tuple[MadeBy, Mask]] = {}
    wanted = declared(declarations)
    functions = functions_of(wanted)
    for node in [parse(declaration.text) for declaration in wanted]:
        for call in _calls(node):
            find(call, workload)  # says what is wrong with it before anything else is
            needed = _needed(node, call, dataset, given, columns or {}, functions)
            earlier = calls.get(call.text, (call, np.zeros(len(given), dtype=bool)))[1]
            calls[call.text] = (call, earlier | needed)
    if not calls:
        return dataset
    around = Surroundings(workload.encode)
    if "token_noise" in {call.function for call, _ in calls.values()}:
        around = Surroundings(workload.encode, *vocabulary(dataset.samples[index] for index in given))
    plan = [
        _Making(call, find(call, workload), index)
        for call, needed in calls.values()
        for index, wanted in zip(given, needed, strict=True)
        if wanted
    ]
    copies = Copies(dataset.samples, plan, around, seed)
    for text in calls:  # what cannot be perturbed at all is found out now
        first = next((i for i, making in enumerate(plan) if making.call.text == text), None)
        if first is not None:
            dict(copies[len(dataset) + first].inputs)
    return Dataset(dataset.name, copies)


@dataclass(frozen=True)
class _Making:
    """One copy: which perturbation of which sample."""

    call: MadeBy
    perturbation: Perturbation
    index: int


class Copies(Sequence[Sample]):
    """The samples of a data set and, after them, perturbed copies of some."""

    def __init__(self, samples: Sequence[Sample], plan: Sequence[_Making], around: Surroundings, seed: int) -> None:
        self._samples, self._plan, self._around, self._seed = samples, plan, around, seed

    def __len__(self) -> int:
        return len(self._samples) + len(self._plan)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        if index < len(self._samples):
            return self._samples[index]
        return self._copy(self._plan[index - len(self._samples)])

    def _copy(self, making: _Making) -> Sample:
        source, text = self._samples[making.index], making.call.text
        strength = making.call.argument

        def rng() -> np.random.Generator:
            digest = hashlib.sha256(f"{self._seed}\n{text}\n{source.id}".encode()).digest()
            return np.random.default_rng(int.from_bytes(digest[:16], "big"))

        def make() -> Arrays:
            with _Called(text, source.id):
                made = making.perturbation.inputs(source, strength, rng(), self._around)
            return _checked(text, source, made, making.perturbation.resizes)

        with _Called(text, source.id):
            display = making.perturbation.display(source, strength, rng())
        return replace(source, id=f"{source.id}~{text}", inputs=Later(make), display=display, perturbation=text)


class Later(Mapping[str, np.ndarray]):
    """Inputs that are made when the first of them is asked for, and kept as long as this object is."""

    def __init__(self, make: Callable[[], Arrays]) -> None:
        self._make = make
        self._made: Arrays | None = None

    def _inputs(self) -> Arrays:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __getitem__(self, name: str) -> np.ndarray:
        return self._inputs()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs())

    def __len__(self) -> int:
        return len(self._inputs())


def _calls(node: Node) -> list[MadeBy]:
    """The perturbations that a declaration names."""
    if isinstance(node, MadeBy):
        return [node]
    return [call for part in node.parts for call in _calls(part)]


def _needed(
    node: Node,
    call: MadeBy,
    dataset: Dataset,
    given: Sequence[int],
    columns: Mapping[str, Sequence[object]],
    functions: Mapping[str, Function],
) -> Mask:
    """Which of the samples as they were given the declaration would cover if all had been made by `call`."""
    samples = [dataset.samples[index] for index in given]
    computed = {
        name: [values[index] for index in given] if len(values) == len(dataset) else values
        for name, values in columns.items()
    }
    population = Population(dataset.name, samples, [call.text] * len(samples), computed, functions=functions)
    unknown = {name for name in AUTOMATIC if name not in columns and not any(name in s.metadata for s in samples)}
    if node.columns() & unknown:
        return np.ones(len(samples), dtype=bool)
    masks = [condition.mask(population) for condition in node.conditions(population)]
    return np.asarray(np.logical_or.reduce(masks), dtype=bool)


def _checked(text: str, source: Sample, made: Arrays, resizes: bool) -> Arrays:
    """Inputs that the model would take as it took the source's. Raises `DataError` that names the sample and input."""
    where = f"perturbation {text} of sample {source.id!r}"
    if not isinstance(made, Mapping) or sorted(made) != sorted(source.inputs):
        names = sorted(made) if isinstance(made, Mapping) else type(made).__name__
        raise DataError(f"{where} gives the inputs {names}; the sample has {sorted(source.inputs)}")
    for name, before in source.inputs.items():
        after = made[name]
        if not isinstance(after, np.ndarray) or after.dtype != before.dtype or after.ndim != before.ndim:
            kind = f"{after.dtype}{list(after.shape)}" if isinstance(after, np.ndarray) else type(after).__name__
            raise DataError(
                f"{where} gives {kind} for input {name!r}; the sample has {before.dtype}{list(before.shape)}"
            )
        if after.shape != before.shape and not resizes:
            raise DataError(f"{where} gives input {name!r} the shape {after.shape}; the sample has {before.shape}")
        if after.dtype.kind == "f" and not np.isfinite(after).all():
            raise DataError(f"{where} gives NaN or infinity in input {name!r}; make it finite")
    return made


class _Called:
    """Turns what a perturbation raises, the user's own included, into one `DataError`; our own errors pass."""

    def __init__(self, text: str, sample: str) -> None:
        self._what = f"perturbation {text} of sample {sample!r}"

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, AutotuneError | KeyboardInterrupt | MemoryError | GeneratorExit):
            return
        raise DataError(f"{self._what} raised {' '.join(f'{type(error).__name__}: {error}'.split())}") from error
