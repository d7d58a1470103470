"""What a user may say to the sampler, checked against the study: one clear line for what does not fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.study import StudyDirection

from autotune.errors import UsageError, did_you_mean
from autotune.search.surrogate.history import signs
from autotune.search.surrogate.space import CONSTANT, Floats, Space

Guess = Mapping[int, Mapping[str, Mapping[Any, float]]]
DamageGuess = Mapping[str, Mapping[Any, Mapping[str, float]]]


def check_index(name: str, indices: Iterable[int], count: int) -> None:
    """Raises `UsageError` for an objective that the study does not have."""
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise UsageError(f"{name}: objective {index} does not exist; the study has {count}, from 0")


def check_limits(name: str, limits: Mapping[Any, float]) -> None:
    """Raises `UsageError` for a limit that is not a finite number."""
    for key, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
            raise UsageError(f"{name}: the limit of {key} must be a finite number, not {limit!r}")


def check_anchors(anchors: Sequence[Mapping[str, Any]]) -> None:
    """Raises `UsageError` for an anchor that maps no names."""
    for anchor in anchors:
        if not isinstance(anchor, Mapping):
            raise UsageError(f"anchors: {anchor!r} is no configuration; give {{parameter: choice}} for each")


def checked_signs(
    directions: Sequence[StudyDirection],
    *,
    indexed: Mapping[str, Iterable[int]],
    reference: Sequence[float] | None,
    worst: int | None,
) -> Floats:
    """+1 for a minimised objective, -1 for a maximised one. Raises `UsageError` where options and study disagree."""
    count = len(directions)
    for name, indices in indexed.items():
        check_index(name, indices, count)
    if reference is not None and len(reference) != count:
        raise UsageError(f"reference has {len(reference)} values; the study has {count} objectives")
    if worst is not None:
        if not 0 <= worst < count:
            raise UsageError(f"worst_objective {worst} does not exist; the study has {count}, from 0")
        if directions[worst] == StudyDirection.MAXIMIZE:
            raise UsageError(f"worst_objective {worst} must be minimised: it is the largest drop")
    return signs(directions)


def check_guesses(space: Space, guess: Guess, damage_guess: DamageGuess) -> None:
    """Raises `UsageError` for a guess about a parameter or a choice that the search space does not have."""
    for index, table in guess.items():
        _check_choices(f"guess[{index}]", space, {name: c for name, c in table.items() if name != CONSTANT})
        for name, choices in table.items():
            check_limits(f"guess[{index}][{name!r}]", choices)
    _check_choices("damage_guess", space, damage_guess)
    for name, of_choices in damage_guess.items():
        for choice, slices in of_choices.items():
            check_limits(f"damage_guess[{name!r}][{choice!r}]", slices)


def _check_choices(option: str, space: Space, table: Mapping[str, Mapping[Any, Any]]) -> None:
    known = dict(zip(space.names, space.choices, strict=True))
    for name, choices in table.items():
        if name not in known:
            raise UsageError(f"{option}: {name!r} is no parameter of the search space; {did_you_mean(name, known)}")
        for choice in choices:
            if choice not in known[name]:
                raise UsageError(f"{option}: parameter {name!r} has no choice {choice!r}; it has "
                                 f"{', '.join(map(repr, known[name]))}")  # fmt: skip


def to_minimise(limits: Mapping[int, float], aim_at: int | None, worst: int | None, count: int) -> int:
    """The objective that an aim makes best: the given one, else the worst one, else the first without a limit."""
    if aim_at is not None:
        return aim_at
    free = [m for m in range(count) if m not in limits]
    if worst is not None and (worst in free or not free):
        return worst
    return free[0] if free else 0


def columns(
    limits: Mapping[int, float], slice_limits: Mapping[str, float], *, sign: Floats, slices: Sequence[str]
) -> dict[int, float]:
    """Limits by column of the quantities (see `milp`), everything minimised.

    Raises `UsageError` for a slice that is not in `slices`.
    """
    found = {m: float(sign[m]) * limit for m, limit in limits.items()}
    for name, limit in slice_limits.items():
        if name not in slices:
            raise UsageError(f"limit of slice {name!r}: no measured trial has it in its drops; "
                             f"{did_you_mean(name, slices)}")  # fmt: skip
        found[len(sign) + list(slices).index(name)] = float(limit)
    return found
