"""Choices that name a share: `zeros-50%`, `rank-25%`. From options of the study file to names and back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autotune.errors import UsageError


def checked(technique: str, option: str, values: object) -> tuple[float, ...]:
    """The option's values, smallest first, each once. Raises `UsageError` for anything but fractions of 1, and for
    those that no choice can name, or two with one name (of six digits)."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UsageError(f"technique {technique}: {option} is {values!r}; give a list of fractions, such as [0.5]")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < 1:
            raise UsageError(f"technique {technique}: {option} has {value!r}; give fractions between 0 and 1")
    names: dict[str, float] = {}
    for value in sorted(set(values)):
        name = named("share", value)
        if parsed("share", name) is None:
            raise UsageError(f"technique {technique}: {option} has {value!r}; give fractions from 0.000001 to 0.999999")
        if name in names:
            raise UsageError(
                f"technique {technique}: {option} has {names[name]!r} and {value!r}, which are the same choice; "
                "leave one of them out"
            )
        names[name] = value
    return tuple(names.values())


def named(prefix: str, share: float) -> str:
    """`zeros` and 0.5 are `zeros-50%`."""
    return f"{prefix}-{100 * share:g}%"


def parsed(prefix: str, choice: str) -> float | None:
    """The share that a choice names; None for a choice of another kind."""
    found = re.fullmatch(rf"{prefix}-(\d+(?:\.\d+)?)%", choice)
    share = float(found[1]) / 100 if found else 0.0
    return share if 0 < share < 1 else None
