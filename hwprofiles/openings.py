"""Openings: what was timed while both models stayed open, which of it counts, and when it is enough.

Pure decisions over numbers: whoever collects asks `Tally.wanted` for the next opening until it is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hwprofiles.agent.readings import Blocks, log_ratios
from hwprofiles.scenario import Scenario
from hwprofiles.statistics import Interval, half_width, interval_over_openings, looks, pairs_per_opening

# Rule B8: nothing is decided from fewer pairs, and nothing published.
LEAST_PAIRS = {"search": 20, "final": 50}

_CLOCK = 0.02  # an opening whose clock is further from the others' median than this ran on another machine, so to say

Sides = dict[str, Blocks]  # "a": candidate, "b": baseline, if there is one


@dataclass
class Opening:
    """Blocks of both sides for each shape, from one time of opening both models.

    `disturbed`: what used the machine meanwhile, in words; empty if nothing did.
    """

    number: int
    shapes: dict[str, Sides]
    disturbed: tuple[str, ...] = ()

    @property
    def clock_hz(self) -> float | None:
        """Median clock while it was timed, or None where the machine does not tell."""
        clocks = [clock for sides in self.shapes.values() for side in sides.values() for clock in side.clocks]
        return float(np.median(clocks)) if clocks else None


@dataclass
class Tally:
    """All openings of a measurement. `labels`: the shapes."""

    scenario: Scenario
    labels: tuple[str, ...]
    openings: list[Opening] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._looks = looks(self.scenario.min_pairs, self.scenario.max_pairs)
        self._most = self._looks[-1]
        self._opening = pairs_per_opening(self.scenario.generation_pairs, self.scenario.min_pairs)
        self._open = list(self.labels)  # shapes that are not known well enough yet

    def wanted(self) -> tuple[list[str], int]:
        """Shapes and pairs of each for the next opening; no shapes: it is enough."""
        if not self._open:
            return [], 0
        have = self._pairs(self._open[0], self._counted())
        return list(self._open), max(1, min(self._opening, self._most - have))

    def add(self, opening: Opening) -> None:
        """Take an opening and, if as many pairs are there as the next look wants, decide what is known well enough."""
        self.openings.append(opening)
        counted = self._counted()
        have = self._pairs(self._open[0], counted)
        if not self._looks or have < self._looks[0]:
            return
        while self._looks and have >= self._looks[0]:  # one opening may pass several looks
            self._looks.pop(0)
        precise = self.scenario.precision
        self._open = [label for label in self._open if self._looks and self._half_width(label, counted) > precise]

    def settle(self) -> tuple[list[Opening], set[str]]:
        """The openings that count in the end, and flags: contended, throttled, short."""
        flags: set[str] = set()
        kept = self._counted()
        if len(kept) < len(self.openings) and self._fewest(kept) < self.scenario.min_pairs:
            kept = list(self.openings)  # time ran out before others could take their place
        if any(opening.disturbed for opening in kept):
            flags.add("contended")
        steady = _steady(kept)
        if len(steady) < len(kept):
            if self._fewest(steady) >= self.scenario.min_pairs:
                kept = steady
            else:
                flags.add("throttled")
        least = max(self.scenario.min_pairs, LEAST_PAIRS[self.scenario.phase])
        # With one opening nothing is known of how openings differ, however many pairs it has.
        if self._fewest(kept) < least or len({opening.number for opening in kept}) < 2:
            flags.add("short")
        return kept, flags

    def _counted(self) -> list[Opening]:
        """Openings that nothing disturbed, as long as they can be had by taking half as many openings more."""
        quiet = [opening for opening in self.openings if not opening.disturbed]
        spare = -(-self.scenario.min_pairs // self._opening) / 2
        return quiet if len(self.openings) - len(quiet) <= spare else list(self.openings)

    def _fewest(self, openings: list[Opening]) -> int:
        return min(self._pairs(label, openings) for label in self.labels)

    @staticmethod
    def _pairs(label: str, openings: Iterable[Opening]) -> int:
        return sum(len(opening.shapes[label]["a"].medians) for opening in openings if label in opening.shapes)

    def _half_width(self, label: str, openings: list[Opening]) -> float:
        paired = all("b" in opening.shapes[label] for opening in openings if label in opening.shapes)
        return half_width(ratio_of(openings, label) if paired else median_of(openings, label, "a"))


def ratio_of(openings: Iterable[Opening], label: str, *, cpu: bool = False) -> Interval:
    """Logarithm of candidate / baseline with its interval, from wall or CPU time."""
    values, numbers = pair_logs(openings, label, cpu=cpu)
    return interval_over_openings(values, numbers)


def pair_logs(openings: Iterable[Opening], label: str, *, cpu: bool = False) -> tuple[list[float], list[int]]:
    """Log ratio of each pair, and the number of its opening."""

    def of(sides: Mapping[str, Blocks]) -> list[float]:
        a, b = sides["a"], sides["b"]
        return log_ratios(a.cpu, b.cpu) if cpu else log_ratios(a.medians, b.medians)

    return _gather(openings, label, of)


def block_medians(openings: Iterable[Opening], label: str, side: str) -> tuple[list[float], list[int]]:
    """Seconds of each block, and the number of its opening."""
    return _gather(openings, label, lambda sides: sides[side].medians)


def median_of(openings: Iterable[Opening], label: str, side: str) -> Interval:
    """Logarithm of the seconds of one inference with its interval."""
    values, numbers = block_medians(openings, label, side)
    return interval_over_openings(np.log(values).tolist(), numbers)


def _gather(
    openings: Iterable[Opening], label: str, values: Callable[[Mapping[str, Blocks]], list[float]]
) -> tuple[list[float], list[int]]:
    found: list[float] = []
    numbers: list[int] = []
    for opening in openings:
        if label in opening.shapes:
            some = values(opening.shapes[label])
            found += some
            numbers += [opening.number] * len(some)
    return found, numbers


def _steady(openings: list[Opening]) -> list[Opening]:
    clocks = [opening.clock_hz for opening in openings if opening.clock_hz is not None]
    if not clocks:
        return openings
    usual = float(np.median(clocks))
    return [o for o in openings if o.clock_hz is None or abs(o.clock_hz - usual) <= _CLOCK * usual]
