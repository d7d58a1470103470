"""What decisions about structure do to sizes, found out once by carrying each out alone: no device, no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.compress.assembly import Assembler
from autotune.errors import TrialFailure
from autotune.recipe import NONE, Recipe
from autotune.search.space import Space, Variable
from autotune.techniques.protocol import RESIZING, Foretelling

_FLOAT = 4  # bytes

Factors = Mapping[str, Mapping[str, Mapping[str, float]]]  # variable -> choice -> variable of formats -> factor


@dataclass(frozen=True)
class Structure:
    """`factors`: how many times as many weights a format variable's layers have under a structural choice; variables
    that change structure are all there, those that leave the number of weights alone with nothing. `own`: variable ->
    choice -> bytes that it adds outside of the layers that have a format variable."""

    factors: Factors = field(default_factory=dict)
    own: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def survey(space: Space, assembler: Assembler) -> Structure:
    """Carry out every structural choice of the space alone. A choice that cannot be carried out says nothing here: a
    trial of it fails with the cause."""
    formats = {
        layer: variable.name
        for variable in space.variables
        if assembler.techniques[variable.technique].stage == "precision"
        for layer in variable.layers
    }
    factors: dict[str, dict[str, dict[str, float]]] = {}
    own: dict[str, dict[str, float]] = {}
    for variable in space.variables:
        stage = assembler.techniques[variable.technique].stage
        if stage == "precision":
            continue
        factors[variable.name], own[variable.name] = {}, {}
        for choice in variable.choices if stage in RESIZING else ():
            left = _weights_left(space, assembler, variable, choice)
            factors[variable.name][choice] = _by_format(left, formats, assembler)
            rest = [name for name in left if name not in formats]
            layers = assembler.source.layers
            own[variable.name][choice] = float(_FLOAT * sum(left[name] - layers[name].parameters for name in rest))
    return Structure(factors, own)


def _weights_left(space: Space, assembler: Assembler, variable: Variable, choice: str) -> dict[str, int]:
    """Layer -> its number of weights where the variable takes the choice; only layers for which it changes."""
    if choice == NONE:
        return {}
    technique, decisions = assembler.techniques[variable.technique], variable.decisions(choice)
    recipe = Recipe(space.fixed.to_dict() | {variable.technique: decisions})
    try:
        if isinstance(technique, Foretelling) and technique.stage == "torch":
            return dict(technique.foretell(assembler.original(), decisions))
        source = assembler.structured(recipe)
    except TrialFailure:
        return {}
    left = {
        name: sum(source.layers[part].parameters for part in source.parts.get(name, (name,)))
        for name in assembler.source.layers
    }
    return {name: count for name, count in left.items() if count != assembler.source.layers[name].parameters}


def _by_format(left: Mapping[str, int], formats: Mapping[str, str], assembler: Assembler) -> dict[str, float]:
    """Format variable -> factor, where it is not 1."""
    layers = assembler.source.layers
    touched = {formats[name] for name in left if name in formats}
    result = {}
    for variable in sorted(touched):
        members = [name for name, its in formats.items() if its == variable]
        before = sum(layers[name].parameters for name in members)
        result[variable] = sum(left.get(name, layers[name].parameters) for name in members) / before
    return result
