"""The search space: which choices each layer (or group of layers) has, and how a point of it becomes a recipe."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from autotune.config import GroupTable
from autotune.errors import ConfigError, did_you_mean
from autotune.layers import Layer
from autotune.recipe import NONE, Recipe
from autotune.techniques.protocol import Capabilities, Technique


@dataclass(frozen=True)
class Variable:
    """One decision: a technique's choice for one layer or group. `choices[0]` is "none"."""

    name: str  # technique/layer or technique/group
    technique: str
    layers: tuple[str, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """All variables, in execution order of their first layer within a technique."""

    variables: tuple[Variable, ...]
    uniform: tuple[tuple[str, Recipe], ...]  # (label, recipe): what anybody would try first
    fixed: Recipe = field(default_factory=Recipe)  # decisions for the whole graph, part of every recipe

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
            decisions.setdefault(variable.technique, {}).update(dict.fromkeys(variable.layers, choice))
        return Recipe(decisions)

    def params(self, recipe: Recipe) -> dict[str, str] | None:
        """The point of a recipe; None if the recipe lies outside the space (other layers, split groups)."""
        params: dict[str, str] = {}
        for variable in self.variables:
            chosen = {recipe[variable.technique].get(layer, NONE) for layer in variable.layers}
            if len(chosen) != 1 or not chosen <= set(variable.choices):
                return None
            params[variable.name] = chosen.pop()
        return params if self.recipe(params) == recipe else None


def build_space(
    layers: Sequence[Layer],
    techniques: Mapping[str, Technique],
    capabilities: Capabilities,
    *,
    groups: Sequence[GroupTable] = (),
    exclude: Sequence[str] = (),
) -> Space:
    """Variables of every technique. Raises `ConfigError` for a pattern that matches no layer."""
    names = [layer.name for layer in layers]
    for where, patterns in [("exclude", exclude), *((f"group {g.name!r}", g.layers) for g in groups)]:
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise ConfigError(f"{where}: pattern {pattern!r} matches no layer; " + did_you_mean(pattern, names))
    searched = [layer for layer in layers if not any(fnmatch.fnmatch(layer.name, p) for p in exclude)]
    variables: list[Variable] = []
    fixed = fixed_part(techniques)
    uniform: list[tuple[str, Recipe]] = [("exact rewrites", fixed)] if fixed else []
    for name, technique in techniques.items():
        if technique.scope == "graph":
            continue
        offered = {layer.name: tuple(technique.choices(layer, capabilities)) for layer in searched}
        offered = {layer: choices for layer, choices in offered.items() if choices}
        units = _units(list(offered), groups)
        for label, members in units.items():
            common = tuple(c for c in offered[members[0]] if all(c in offered[m] for m in members))
            if common:
                variables.append(Variable(f"{name}/{label}", name, members, (NONE, *common)))
                offered.update(dict.fromkeys(members, common))
        for label, decisions in technique.uniform(offered):
            uniform.append((label, Recipe(fixed.to_dict() | {name: decisions})))
    return Space(tuple(variables), tuple(uniform), fixed)


def fixed_part(techniques: Mapping[str, Technique]) -> Recipe:
    """The decisions of the techniques that decide once for the whole graph."""
    return Recipe({name: t.uniform({})[0][1] for name, t in techniques.items() if t.scope == "graph"})


def _units(layers: Sequence[str], groups: Sequence[GroupTable]) -> dict[str, tuple[str, ...]]:
    """Group or layer name -> its layers, in order; the first group whose pattern matches takes a layer."""
    units: dict[str, list[str]] = {}
    for layer in layers:
        group = next((g.name for g in groups if any(fnmatch.fnmatch(layer, p) for p in g.layers)), layer)
        units.setdefault(group, []).append(layer)
    return {name: tuple(members) for name, members in units.items()}
