"""Where the time of a trial goes, by layer: what its kernels took in the profiled inference, beside the original's and
beside what other choices took in other trials.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.keys import MetricKey, format_amount
from autotune.recipe import NONE
from autotune.trial import Trial

SHOWN = 5  # layers that are named
_WORTH = 0.05  # a saving below this share of a layer's time is noise of one profiled inference
_TIME = MetricKey("latency_p50")  # for the unit


@dataclass(frozen=True)
class LayerTime:
    """One layer of a trial. `share` is that of the time of all its layers; `fastest` the choice that took least in any
    trial (median over trials), and `saves` what it would save; a choice that is fastest already saves nothing.
    """

    layer: str
    choice: str
    ran: str
    seconds: float
    share: float
    original_seconds: float | None
    fastest: str
    fastest_seconds: float
    saves: float

    def __str__(self) -> str:
        before = "" if self.original_seconds is None else f", in the original {_ms(self.original_seconds)}"
        text = f"{self.layer} ({self.choice}): {_ms(self.seconds)}, {self.share:.0%}{before}"
        worth = self.saves > _WORTH * self.seconds
        return text + (f"; {_named(self.fastest)} would save {_ms(self.saves)}" if worth else "")


@dataclass(frozen=True)
class TimeShare:
    """The time of the layers of one trial on one target, the slowest first; times of one profiled inference, in s.

    `unseen` layers had no kernel of their own: they are part of another's or not on the path that was taken.
    """

    trial: int
    target: str
    layers: tuple[LayerTime, ...]
    seconds: float
    original_seconds: float
    unseen: tuple[str, ...] = ()

    @property
    def best_change(self) -> LayerTime | None:
        """The layer in which another choice would save most; None where all have the fastest that was tried."""
        found = max(self.layers, key=lambda layer: layer.saves, default=None)
        return found if found is not None and found.saves > _WORTH * found.seconds else None

    @property
    def lines(self) -> list[str]:
        """For people: a head, the slowest layers, the change that would save most."""
        count = len(self.layers)
        head = (
            f"where the time of trial {self.trial} goes on {self.target}: {_ms(self.seconds)} in "
            f"{count} {'layer' if count == 1 else 'layers'} of one profiled inference, "
            f"{_ms(self.original_seconds)} in the original"
        )
        rest = self.layers[SHOWN:]
        lines = [head, *(f"  {layer}" for layer in self.layers[:SHOWN])]
        if rest:
            lines.append(f"  {len(rest)} more: {_ms(sum(layer.seconds for layer in rest))} together")
        change = self.best_change
        if change is not None:
            lines.append(f"  most would be saved by {_named(change.fastest)} in {change.layer}: {_ms(change.saves)}")
        elif self.layers:
            lines.append("  every layer has the fastest choice that was tried")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


def time_share(trial: Trial, trials: Sequence[Trial], target: str) -> TimeShare | None:
    """Where the time of `trial` goes; None where it was not profiled. `target` is the one whose kernels are recorded,
    the first of the study. `trials` with their layers tell what other choices take.
    """
    seen = [outcome for outcome in trial.layers if outcome.seconds > 0]
    if not seen:
        return None
    known = _by_choice(trials)
    original = {o.layer: o.seconds for t in trials if t.number == 0 for o in t.layers if o.seconds > 0}
    total = sum(outcome.seconds for outcome in seen)
    layers = []
    for outcome in sorted(seen, key=lambda o: (-o.seconds, o.layer)):
        choices = known.get(outcome.layer, {})
        own = choices.get(outcome.asked, outcome.seconds)  # a median, where other trials chose the same
        fastest = min(choices, key=lambda c: (choices[c], c != NONE), default=outcome.asked)
        least = choices.get(fastest, outcome.seconds)
        layers.append(
            LayerTime(
                layer=outcome.layer,
                choice=outcome.asked,
                ran=outcome.ran,
                seconds=outcome.seconds,
                share=outcome.seconds / total,
                original_seconds=original.get(outcome.layer),
                fastest=fastest,
                fastest_seconds=least,
                saves=max(0.0, own - least),
            )
        )
    unseen = tuple(outcome.layer for outcome in trial.layers if outcome.seconds <= 0)
    return TimeShare(trial.number, target, tuple(layers), total, sum(original.values()), unseen)


def _by_choice(trials: Sequence[Trial]) -> Mapping[str, Mapping[str, float]]:
    """Layer -> choice -> median seconds of its kernels, over the trials in which the choice really ran."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        for outcome in trial.layers:
            if outcome.honoured and outcome.seconds > 0:
                found[outcome.layer][outcome.asked].append(outcome.seconds)
    return {layer: {c: statistics.median(s) for c, s in choices.items()} for layer, choices in found.items()}


def _named(choice: str) -> str:
    return "no compression" if choice == NONE else choice


def _ms(seconds: float) -> str:
    return format_amount(seconds, _TIME)
