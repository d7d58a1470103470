"""What a solver found within limits, by the model of what has been measured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Solution:
    """The configuration that is predicted to be best within limits, or what keeps there from being one.

    `values` are predicted objectives in their own direction. `excess` holds, for every limit, by how much it would
    have to give, in its own unit, for the others to be met: 0 for limits that do not stand in the way, infinite where
    that limit alone does not help. Its keys are the indices of the objectives as text, and `drop/<slice>`; it is empty
    where `params` is a solution. `gap` is the relative distance to the best bound that the solver knows.
    """

    params: Mapping[str, Any] | None
    values: tuple[float, ...] = ()
    excess: Mapping[str, float] = field(default_factory=dict)
    gap: float = 0.0
    seconds: float = 0.0
