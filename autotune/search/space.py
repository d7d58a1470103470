"""The search space: which choices each layer (or group of layers) has, and how a point of it becomes a recipe."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from autotune.config import GroupTable
from autotune.errors import ConfigError, did_you_mean
from autotune.layers import Layer
from autotune.recipe import NONE, Recipe
from autotune.search.blocks import blocks
from autotune.techniques.protocol import STAGES, Capabilities, Technique


@dataclass(frozen=True)
class Variable:
    """One decision: a technique's choice for one layer or group. `choices[0]` is "none"."""

    name: str  # technique/layer, technique/group or technique/block
    technique: str
    layers: tuple[str, ...]
    choices: tuple[str, ...]
    offered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # layers that do not have all the choices

    def decisions(self, choice: str) -> dict[str, str]:
        """Layer -> choice; a layer of a block that does not have the choice stays as it is."""
        return {layer: choice for layer in self.layers if choice in self.offered.get(layer, self.choices)}


@dataclass(frozen=True)
class Spared:
    """Choices of a layer that are not offered, because they would change layers that are excluded."""

    technique: str
    layer: str
    choices: tuple[str, ...]
    changes: tuple[str, ...]  # all layers that the choices change
    excluded: tuple[str, ...]  # those of them that are excluded


@dataclass(frozen=True)
class Space:
    """All variables, in execution order of their first layer within a technique."""

    variables: tuple[Variable, ...]
    uniform: tuple[tuple[str, Recipe], ...]  # (label, recipe): what anybody would try first
    fixed: Recipe = field(default_factory=Recipe)  # decisions for the whole graph, part of every recipe
    excluded: tuple[str, ...] = ()  # layers that stay as they are
    spared: tuple[Spared, ...] = ()

    @property
    def log10_size(self) -> float:
        """log10 of the number of points."""
        return sum(math.log10(len(v.choices)) for v in self.variables)

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """For `study.ask`."""
        return {v.name: optuna.distributions.CategoricalDistribution(v.choices) for v in self.variables}

    def recipe(self, params: Mapping[str, object]) -> Recipe:
        """The recipe of a point."""
        decisions = self.fixed.to_dict()
        for variable in self.variables:
            choice = str(params[variable.name])
            decisions.setdefault(variable.technique, {}).update(variable.decisions(choice))
        return Recipe(decisions)

    def params(self, recipe: Recipe) -> dict[str, str] | None:
        """The point of a recipe; None if the recipe lies outside the space (other layers, split groups)."""
        params: dict[str, str] = {}
        for variable in self.variables:
            made = {layer: c for layer in variable.layers if (c := recipe[variable.technique].get(layer, NONE)) != NONE}
            choice = next(iter(made.values()), NONE)
            if choice not in variable.choices or (made and made != variable.decisions(choice)):
                return None
            params[variable.name] = choice
        return params if self.recipe(params) == recipe else None


def build_space(
    layers: Sequence[Layer],
    techniques: Mapping[str, Technique],
    capabilities: Capabilities,
    *,
    groups: Sequence[GroupTable] = (),
    exclude: Sequence[str] = (),
    most_blocks: int = 0,
    unsearchable: Sequence[str] = (),
) -> Space:
    """Variables of every technique: formats by layer, structure by block (at most `most_blocks`; 0: by layer as well).
    No choice of another layer changes one that matches `exclude`. A pattern there may also match a part of the model
    that is `unsearchable`, and that nothing touches.

    Raises `ConfigError` for a pattern that matches no layer.
    """
    names = [layer.name for layer in layers]
    _check_patterns(names, groups, [each for each in exclude if not fnmatch.filter(unsearchable, each)])
    searched = [layer for layer in layers if not any(fnmatch.fnmatch(layer.name, p) for p in exclude)]
    excluded = [layer.name for layer in layers if layer not in searched]
    spared: list[Spared] = []
    coarse = blocks([layer.name for layer in searched], most_blocks) if most_blocks else {}
    variables: list[Variable] = []
    fixed = fixed_part(techniques)
    ideas: dict[str, list[tuple[str, Recipe]]] = {}
    for name in sorted(techniques, key=lambda name: STAGES.index(techniques[name].stage)):
        technique = techniques[name]
        if technique.scope == "graph":
            continue
        offered = {layer.name: tuple(technique.choices(layer, capabilities)) for layer in searched}
        lost = [each for layer in offered for each in _spared(technique, name, layer, offered[layer], excluded)]
        spared += lost
        gone = {(each.layer, choice) for each in lost for choice in each.choices}
        offered = {layer: tuple(c for c in choices if (layer, c) not in gone) for layer, choices in offered.items()}
        offered = {layer: choices for layer, choices in offered.items() if choices}
        structural = technique.stage != "precision"
        for label, members in _units(list(offered), groups, coarse if structural else {}).items():
            variable = (_block if structural else _alike)(f"{name}/{label}", name, members, offered)
            if variable is not None:
                variables.append(variable)
                offered.update({member: variable.offered.get(member, variable.choices[1:]) for member in members})
        ideas[name] = [
            (label, Recipe(fixed.to_dict() | {name: decisions})) for label, decisions in technique.uniform(offered)
        ]
    precise = [name for name in ideas if techniques[name].stage == "precision"]
    uniform = [("exact rewrites", fixed)] if fixed else []
    uniform += _in_order(
        [idea for name in precise for idea in ideas[name]],
        [ideas[name] for name in ideas if name not in precise],
    )
    return Space(tuple(variables), tuple(uniform), fixed, tuple(excluded), tuple(spared))


def _check_patterns(names: Sequence[str], groups: Sequence[GroupTable], exclude: Sequence[str]) -> None:
    tables: list[tuple[tuple[str | int, ...], str, Sequence[str]]] = [(("exclude",), "", exclude)]
    tables += [(("groups", at, "layers"), f"group {g.name!r}: ", g.layers) for at, g in enumerate(groups)]
    for key, whose, patterns in tables:
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = did_you_mean(pattern.strip("*?"), names)
                raise ConfigError(f"{whose}pattern {pattern!r} matches no layer of the model; {near}", key)


def changed_by(technique: Technique, layer: str, choice: str) -> tuple[str, ...]:
    """The layers that a choice changes: the layer itself, and those that the technique changes along with it."""
    more: Callable[[str, str], Collection[str]] | None = getattr(technique, "changes", None)
    return tuple(dict.fromkeys((layer, *(more(layer, choice) if more is not None else ()))))


def _spared(
    technique: Technique, name: str, layer: str, choices: Sequence[str], excluded: Collection[str]
) -> list[Spared]:
    """What of a layer's choices would change excluded layers, choices that change the same layers together."""
    found: dict[tuple[str, ...], list[str]] = {}
    for choice in choices:
        found.setdefault(changed_by(technique, layer, choice), []).append(choice)
    hit = {changes: tuple(each for each in changes if each in excluded) for changes in found}
    return [Spared(name, layer, tuple(found[changes]), changes, hit[changes]) for changes in found if hit[changes]]


_FORMATS_FIRST = 4  # uniform formats that come before the first structural recipe


def _in_order(
    formats: Sequence[tuple[str, Recipe]], structures: Sequence[Sequence[tuple[str, Recipe]]]
) -> list[tuple[str, Recipe]]:
    """Uniform recipes, those first that anybody would try first: some formats, the mildest of each structural
    technique, each of these with the best format; then the rest."""
    mild = [ideas[0] for ideas in structures if ideas]
    both = [
        (f"{label} and {name}", Recipe(best.to_dict() | recipe.to_dict()))
        for name, best in formats[:1]
        for label, recipe in mild
    ]
    rest = [idea for ideas in structures for idea in ideas[1:]]
    return [*formats[:_FORMATS_FIRST], *mild, *both, *formats[_FORMATS_FIRST:], *rest]


def _alike(
    name: str, technique: str, members: tuple[str, ...], offered: Mapping[str, Sequence[str]]
) -> Variable | None:
    """A variable whose members all take the same choice: what all of them have."""
    common = tuple(c for c in offered[members[0]] if all(c in offered[m] for m in members))
    return Variable(name, technique, members, (NONE, *common)) if common else None


def _block(name: str, technique: str, members: tuple[str, ...], offered: Mapping[str, Sequence[str]]) -> Variable:
    """A variable whose choice is taken by those of its members that have it."""
    choices = tuple(dict.fromkeys(c for member in members for c in offered[member]))
    some = {member: tuple(offered[member]) for member in members if set(offered[member]) != set(choices)}
    return Variable(name, technique, members, (NONE, *choices), some)


def fixed_part(techniques: Mapping[str, Technique]) -> Recipe:
    """The decisions of the techniques that decide once for the whole graph."""
    return Recipe({name: t.uniform({})[0][1] for name, t in techniques.items() if t.scope == "graph"})


def _units(
    layers: Sequence[str], groups: Sequence[GroupTable], coarse: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Group, block or layer name -> its layers, in order; the first group whose pattern matches takes a layer."""
    units: dict[str, list[str]] = {}
    for layer in layers:
        group = next((g.name for g in groups if any(fnmatch.fnmatch(layer, p) for p in g.layers)), None)
        units.setdefault(group or coarse.get(layer, layer), []).append(layer)
    return {name: tuple(members) for name, members in units.items()}
