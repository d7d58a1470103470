"""Which samples are in which slice: declarations applied to data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from autotune.errors import DataError
from autotune.slices.bands import Bands
from autotune.slices.columns import ALL, AUTOMATIC, Collection, Mask, Population
from autotune.slices.combinations import And, Product
from autotune.slices.declaration import RESERVED, Declaration, Kind, Slices, declared, functions_of
from autotune.slices.expressions import Condition, Node
from autotune.slices.parsing import parse

FLOOR = 30  # samples that one of all intersections must have at least


class Assigned(dict[str, Mask]):
    """Slice name -> which samples are in it, `[n]` bool, "all" first, then in the order of declaration.

    `kinds` says of every slice where it comes from, `declarations` as what it can be declared by itself, `origins`
    which of the given declarations it is of, `notes` what was left out or is there twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, Kind] = {}
        self.declarations: dict[str, Declaration] = {}
        self.origins: dict[str, Declaration] = {}
        self.notes: list[str] = []


def assign(
    data: Collection,
    declarations: Slices,
    *,
    expected: Iterable[str] = (),
    columns: Mapping[str, Sequence[object]] | None = None,
    floor: int = FLOOR,
) -> Assigned:
    """Apply declarations to data. "all" are the samples as they were given; so is what a slice covers that names no
    perturbation, and one that names a perturbation covers what that made.

    `expected` are slice names that must be there, e.g. those of the search data when the held-out data are
    assigned; a value that only the first data have is then no mistake. `columns` are computed columns beside the
    metadata. Of all intersections (`font * effect`) those with fewer than `floor` samples are left out, with a note.

    Raises `DataError` for data without samples, ids that occur twice, an unknown column, a function that fails, and a
    slice that covers nothing or, declared by itself, everything; `UsageError` for a declaration that cannot be read.
    """
    if not data.samples:
        raise DataError(f"the {data.name} data hold no sample; give at least one")
    wanted = dict.fromkeys(expected)
    given = declared(declarations)
    population = Population.of(data, columns, strict=not wanted, functions=functions_of(given))
    _check_ids(population)
    assigned = Assigned()
    assigned[ALL], assigned.kinds[ALL] = population.given(), "declared"
    if not assigned[ALL].any():
        raise DataError(f"the {data.name} data hold perturbed samples only; give those that they were made from too")
    for declaration in given:
        _add(assigned, declaration, population, wanted, floor)
    for name in wanted:
        if name not in assigned:
            raise DataError(population.covers_nothing(name) + "; every slice needs samples in both data sets")
    _note_doubles(assigned)
    return assigned


def fixed(
    data: Collection,
    declarations: Slices,
    *,
    columns: Mapping[str, Sequence[object]] | None = None,
) -> tuple[Declaration, ...]:
    """The declarations with the edges of their `bands` as these data give them, so that other data are cut alike.

    Raises `DataError` where a column has no bands, `UsageError` for a declaration that cannot be read.
    """
    given = declared(declarations)
    population = Population.of(data, columns, functions=functions_of(given))
    found = []
    for declaration in given:
        node = parse(declaration.text)
        cut = _with_edges(node, population)
        found.append(declaration if cut is node else replace(declaration, text=cut.text))
    return tuple(found)


def possible_names(
    data: Collection, declarations: Slices, *, columns: Mapping[str, Sequence[object]] | None = None
) -> list[str]:
    """What the slices of these declarations can be called, those included that will turn out to cover nothing: asked
    before computed columns are known, with `columns` that hold every word that they may have.

    Raises as `assign` does for a column, value or function that does not exist.
    """
    given = declared(declarations)
    population = Population.of(data, columns, functions=functions_of(given))
    names = []
    for declaration in given:
        node = parse(declaration.text)
        for condition in node.conditions(population):
            condition.mask(population)
            names.append(_name(declaration, condition, not node.depth))
    return names


def columns_of(declaration: str | Declaration) -> frozenset[str]:
    """The columns that a declaration looks at. Raises `UsageError` where it cannot be read."""
    return parse(str(declaration)).columns()


def _add(
    assigned: Assigned, declaration: Declaration, population: Population, wanted: Mapping[str, None], floor: int
) -> None:
    node = parse(declaration.text)
    alone = not node.depth
    small: list[str] = []
    conditions = node.conditions(population)
    for condition in conditions:
        name = _name(declaration, condition, alone)
        if "@" in name or "\n" in name or name in RESERVED:
            raise DataError(f"slice {name!r} of {population.name} cannot be named in metric keys; rename the value")
        mask = condition.mask(population)
        if not condition.made_by():
            mask = mask & assigned[ALL]
        # Other data have the intersections of the first, however small, so that verdicts are about the same slices.
        left_out = name not in wanted and mask.sum() < floor
        if left_out and isinstance(condition, And) and condition.crossed:
            small.append(name)
            continue
        if not mask.any():
            raise DataError(_nothing(name, condition, population))
        if not condition.made_by() and np.array_equal(mask, assigned[ALL]):
            _covers_all(name, int(mask.sum()), population, assigned, alone and not wanted)
        if name in assigned and not np.array_equal(assigned[name], mask):
            raise DataError(f"two slices of the {population.name} data are called {name!r}; give one another name")
        if name not in assigned:
            assigned[name] = mask
            assigned.kinds[name] = declaration.kind or _kind(condition, population)
            assigned.declarations[name] = replace(declaration, text=condition.text, name=name)
        if alone or name not in assigned.origins:  # who asks for one slice by its name means it
            assigned.origins[name] = declaration
    if small and len(small) == len(conditions) and not wanted:
        raise DataError(
            f"slice {declaration.text} of {population.name}: none of the {len(small)} intersections has {floor} "
            "samples; name one with &, or judge more samples"
        )
    if small and not wanted:
        assigned.notes.append(
            f"{len(small)} intersections of {declaration.text} have fewer than {floor} samples and are left out, "
            f"e.g. {small[0]}"
        )


def _name(declaration: Declaration, condition: Condition, alone: bool) -> str:
    if declaration.name is None:
        return condition.name
    return declaration.name if alone else f"{declaration.name}: {condition.name}"


def _kind(condition: Condition, population: Population) -> Kind:
    if condition.made_by():
        return "perturbed"
    if isinstance(condition, And) and len({(part.columns(), part.functions()) for part in condition.parts}) > 1:
        return "intersection"
    named = condition.columns()
    computed = named and all(name in AUTOMATIC and population.is_computed(name) for name in named)
    return "automatic" if computed and not condition.functions() else "declared"


def _nothing(name: str, condition: Condition, population: Population) -> str:
    made, there = condition.made_by(), sorted({each for each in population.perturbations if each})
    line = population.covers_nothing(name)
    if made and not made & set(there):
        return f"{line}; no sample was made by {min(made)}" + (f", only by {', '.join(there)}" if there else "")
    return line


def _covers_all(name: str, n: int, population: Population, assigned: Assigned, refuse: bool) -> None:
    """An error in a slice of its own; a note where a column turns out to have one value, or in later data."""
    line = f"slice {name} covers all {n} samples of the {population.name} data: it is the same as 'all'"
    if refuse:
        raise DataError(f"{line}; leave it out or declare one that differs")
    assigned.notes.append(line)


def _note_doubles(assigned: Assigned) -> None:
    by_samples: dict[bytes, list[str]] = {}
    for name, mask in assigned.items():
        if name != ALL and not np.array_equal(mask, assigned[ALL]):
            by_samples.setdefault(np.packbits(mask).tobytes(), []).append(name)
    for names in by_samples.values():
        if len(names) > 1:
            assigned.notes.append(f"slices {' and '.join(names)} are the same samples")


def _with_edges(node: Node, population: Population) -> Node:
    if isinstance(node, Bands):
        return node.fixed(population)
    if isinstance(node, Product):
        left, right = _with_edges(node.left, population), _with_edges(node.right, population)
        return node if (left, right) == node.parts else Product(left, right)
    if isinstance(node, And):
        parts = tuple(_with_edges(part, population) for part in node.operands)
        return node if parts == node.operands else And(parts)
    return node  # the rest is of single slices, which have no bands


def _check_ids(population: Population) -> None:
    seen: set[str] = set()
    for sample in population.samples:
        if sample.id in seen:
            raise DataError(f"sample id {sample.id!r} occurs twice in the {population.name} data; ids must be unique")
        seen.add(sample.id)
