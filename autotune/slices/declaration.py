"""A declared slice as an object: the same text as in a study file, put together with Python's operators.

night = Declaration("hour >= 20 | hour < 6").named("night")
small_at_night = night & "size=small"
blurred_serif = Declaration("blur(2)") & Declaration("font=serif")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from autotune.errors import UsageError

Kind = Literal["declared", "automatic", "perturbed", "intersection", "discovered"]
RESERVED = ("all", "worst")


@dataclass(frozen=True)
class Declaration:
    """`text` as `autotune.slices` reads it; `name` is what metric keys call it, its text where it has none.

    `kind` says where it comes from; None: read off its text.
    """

    text: str
    name: str | None = None
    kind: Kind | None = None

    def named(self, name: str) -> Declaration:
        """The same under a name. Raises `UsageError` for one that metric keys cannot hold."""
        check_name(name)
        return replace(self, name=name)

    def __and__(self, other: Declaration | str) -> Declaration:
        return Declaration(f"{_operand(self)} & {_operand(other)}")

    def __or__(self, other: Declaration | str) -> Declaration:
        return Declaration(f"{_operand(self)} | {_operand(other)}")

    def __mul__(self, other: Declaration | str) -> Declaration:
        return Declaration(f"{_operand(self)} * {_operand(other)}")

    def __invert__(self) -> Declaration:
        return Declaration(f"!{_operand(self)}")

    def __str__(self) -> str:
        return self.text


def declared(given: Iterable[str | Declaration], table: Mapping[str, str] | None = None) -> tuple[Declaration, ...]:
    """The declarations of a workload and those of a study file's `[slices]`, in this order.

    Raises `UsageError` for a name that metric keys cannot hold, and for what is no declaration.
    """
    if isinstance(given, str):
        raise UsageError(f"slices are {given!r}, one text; give a list of declarations, e.g. [{given!r}]")
    given = list(given)
    for each in given:
        if not isinstance(each, str | Declaration):
            raise UsageError(f"slice {each!r:.60} is neither a text nor a Declaration")
    first = [each if isinstance(each, Declaration) else Declaration(each) for each in given]
    return (*first, *(Declaration(text).named(name) for name, text in (table or {}).items()))


def check_name(name: str) -> None:
    """Raises `UsageError` unless metric keys can call a slice so: `drop/NAME@TARGET`."""
    if not name.strip() or name != name.strip() or "@" in name or "\n" in name or name in RESERVED:
        raise UsageError(
            f"slice name {name!r} cannot be used in metric keys; it must be one line without '@' and blanks around it, "
            f"and not {' or '.join(map(repr, RESERVED))}"
        )


def _operand(declaration: Declaration | str) -> str:
    text = declaration.text if isinstance(declaration, Declaration) else declaration
    return f"({text})" if any(sign in text for sign in "&|!*") else text
