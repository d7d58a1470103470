"""Recipes of another study in the words of this one's space."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.recipe import NONE, Recipe
from autotune.search.space import Space
from autotune.techniques.recover import NAME as RECOVER

MOST_LOST = 0.1  # share of a recipe's decisions that may be dropped: the rest is still a good start


@dataclass(frozen=True)
class Translated:
    """The point of a recipe in this space. `lost` of its `decisions` are no choice here and were left out."""

    params: dict[str, str]
    decisions: int
    lost: int

    @property
    def usable(self) -> bool:
        """Whether it is still about the same recipe."""
        return self.decisions > self.lost and self.lost <= MOST_LOST * self.decisions


def translate(space: Space, recipe: Recipe) -> Translated:
    """Graph-wide decisions are those of this study; layers that share a choice here must have shared it there."""
    params: dict[str, str] = {}
    searched = {variable.technique for variable in space.variables}
    # What is decided once for the whole graph is not lost, but taken from this study; what was trained belongs to one.
    decisions = sum(len(recipe[t]) for t in recipe if t in searched or t not in (*space.fixed, RECOVER))
    kept = 0
    for variable in space.variables:
        chosen = {recipe[variable.technique].get(layer, NONE) for layer in variable.layers}
        choice = chosen.pop() if len(chosen) == 1 else NONE
        params[variable.name] = choice if choice in variable.choices else NONE
        if params[variable.name] != NONE:
            kept += len(variable.layers)
    return Translated(params, decisions, decisions - kept)
