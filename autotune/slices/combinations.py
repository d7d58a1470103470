"""Declarations put together: & | ! of single slices, and all intersections of two families."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.slices.columns import Mask, Population
from autotune.slices.expressions import Condition, Family, Node


@dataclass(frozen=True)
class Not(Condition):
    """The samples that are not in a slice, those that lack its column included."""

    part: Condition

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.part,)

    @property
    def text(self) -> str:
        return f"!{_inside(self.part, Not)}"

    def mask(self, population: Population) -> Mask:
        return ~self.part.mask(population)


@dataclass(frozen=True)
class And(Condition):
    """The samples that are in all of several slices; at most one part is a family, which then stands for as many."""

    operands: tuple[Node, ...]
    crossed: bool = False  # one of a product's intersections

    @property
    def parts(self) -> tuple[Node, ...]:
        return self.operands

    @property
    def depth(self) -> int:
        return max(part.depth for part in self.parts)

    @property
    def text(self) -> str:
        return " & ".join(_inside(part, And) for part in self.parts)

    def conditions(self, population: Population) -> list[Condition]:
        each = [part.conditions(population) for part in self.parts]
        crossed = any(isinstance(part, Product) for part in self.parts)
        return [And(_flat(choice), crossed) for choice in itertools.product(*each)]

    def mask(self, population: Population) -> Mask:
        masks = [part.mask(population) for part in self.parts if isinstance(part, Condition)]
        return np.asarray(np.logical_and.reduce(masks), dtype=bool)


@dataclass(frozen=True)
class Or(Condition):
    """The samples that are in at least one of several slices."""

    operands: tuple[Condition, ...]

    @property
    def parts(self) -> tuple[Node, ...]:
        return self.operands

    @property
    def text(self) -> str:
        return " | ".join(_inside(part, Or) for part in self.parts)

    def mask(self, population: Population) -> Mask:
        return np.asarray(np.logical_or.reduce([part.mask(population) for part in self.operands]), dtype=bool)


@dataclass(frozen=True)
class Product(Family):
    """All intersections of what two parts stand for."""

    left: Node
    right: Node

    @property
    def depth(self) -> int:
        return self.left.depth + self.right.depth

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def text(self) -> str:
        return f"{_inside(self.left, Product)} * {_inside(self.right, Product)}"

    def conditions(self, population: Population) -> list[Condition]:
        pairs = itertools.product(self.left.conditions(population), self.right.conditions(population))
        return [And(_flat(pair), crossed=True) for pair in pairs]


def _flat(parts: Sequence[Condition]) -> tuple[Node, ...]:
    flat: list[Node] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, And) else (part,))
    return tuple(flat)


def _inside(part: Node, outer: type[Node]) -> str:
    """The text of a part, in parentheses where it would be read differently without."""
    loose = {Not: (And, Or, Product), And: (Or, Product), Or: (Product,), Product: (Or, Product)}[outer]
    return f"({part.text})" if isinstance(part, loose) else part.text
