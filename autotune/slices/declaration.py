"""A declared slice as an object: the same text as in a study file, put together with Python's operators.

night = Declaration("hour >= 20 | hour < 6").named("night")
small_at_night = night & "size=small"
blurred_serif = Declaration("blur(2)") & Declaration("font=serif")
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Declaration:
    """`text` as `autotune.slices` reads it; `name` is what metric keys call it, its text where it has none."""

    text: str
    name: str | None = None

    def named(self, name: str) -> Declaration:
        """The same under a name."""
        return replace(self, name=name)

    def __and__(self, other: Declaration | str) -> Declaration:
        return Declaration(f"{_operand(self)} & {_operand(other)}")

    def __or__(self, other: Declaration | str) -> Declaration:
        return Declaration(f"{_operand(self)} | {_operand(other)}")

    def __invert__(self) -> Declaration:
        return Declaration(f"!{_operand(self)}")

    def __str__(self) -> str:
        return self.text


def _operand(declaration: Declaration | str) -> str:
    text = declaration.text if isinstance(declaration, Declaration) else declaration
    return f"({text})" if any(sign in text for sign in "&|!") else text
