"""What a perturbation is: a function of a sample, a strength and random numbers, and what its strength may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotune.errors import DataError, UsageError
from autotune.slices import MadeBy
from autotune.workload import Arrays, Perturb, Sample

Strength = float | str


@dataclass(frozen=True)
class Surroundings:
    """What a perturbation may know beside the sample: how a text becomes inputs, and the tokens that occur."""

    encode: Callable[[str], Arrays] | None = None
    tokens: Mapping[str, np.ndarray] = field(default_factory=dict)  # input name -> those it may draw, as often as seen
    special: Mapping[str, frozenset[int]] = field(default_factory=dict)  # input name -> those it leaves alone


Function = Callable[[Sample, Any, np.random.Generator, Surroundings], Arrays]


@dataclass(frozen=True)
class Perturbation:
    """A built-in: `function` gives the new inputs. A strength is a number from `low` to `high`, or one of `words`."""

    function: Function
    unit: str  # what the strength is, for messages: "sigma in pixels"
    example: Strength
    low: float = -np.inf
    high: float = np.inf
    words: tuple[str, ...] = ()
    neutral: float | None = None  # the strength that changes nothing, which is no slice
    resizes: bool = False  # inputs may get another shape
    text: Callable[[Sample, Any, np.random.Generator], str] | None = None  # the new `Sample.display`

    def check(self, call: MadeBy) -> None:
        """Raises `UsageError` unless the strength of `call` is one for this perturbation."""
        value = call.argument
        if self.words:
            if value not in self.words:
                raise self._wrong(call, f"one of {', '.join(self.words)}")
        elif isinstance(value, str) or not (self.low <= value <= self.high) or value == self.neutral:
            limits = f" from {self.low:g}" if np.isfinite(self.low) else ""
            limits += f" to {self.high:g}" if np.isfinite(self.high) else ""
            but = f", not {self.neutral:g}, which changes nothing" if self.neutral is not None else ""
            raise self._wrong(call, f"a number{limits} ({self.unit}){but}")

    def inputs(self, sample: Sample, strength: Strength, rng: np.random.Generator, around: Surroundings) -> Arrays:
        """The perturbed inputs. Raises `DataError` where the sample has nothing that this can perturb."""
        return self.function(sample, strength, rng, around)

    def display(self, sample: Sample, strength: Strength, rng: np.random.Generator) -> bytes | str | None:
        """What a person would look at now."""
        return sample.display if self.text is None else self.text(sample, strength, rng)

    def _wrong(self, call: MadeBy, wanted: str) -> UsageError:
        example = MadeBy(call.function, self.example).text
        return UsageError(f"perturbation {call.text}: the strength must be {wanted}; write e.g. {example}")


def users_own(function: Perturb) -> Perturbation:
    """A function of the user, or of another package, (sample, strength, random numbers) -> sample."""

    def inputs(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
        made = function(sample, strength, rng)
        if not isinstance(made, Sample):
            raise DataError(
                f"returned {type(made).__name__} for sample {sample.id!r}; it must return an autotune.Sample"
            )
        return made.inputs

    return Perturbation(inputs, "what your function takes", 1.0, resizes=True)
