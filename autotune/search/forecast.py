"""What would more trials bring? From the history of the front's hypervolume, with an honest interval.

The relative gain per trial is taken to fall by a constant rate, which is read off the last trials: from the gain of
their earlier half to that of their later half. What the next trials bring is simulated many times: both halves are
resampled (a bootstrap, so the rate is as uncertain as it is), and gains are drawn one by one from the later half,
smaller by the rate. Half a made-up trial that gained as much as the best of these last ones is among them, because a
window without a jump does not prove that there is none to come (Jeffreys' half of an observation).

A search is stable when the next trials improve the hypervolume by less than 1 % with a probability of 95 %. A jump
after a long plateau cannot be foreseen by any rule that looks at the past alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 30  # trials that the forecast looks back on, at least; before there are as many it says nothing
SMALL = 0.01  # relative gain of the hypervolume that nobody would wait for
SURE = 0.95
AHEAD = 10  # trials that `stable` looks ahead
_LONGEST = 200  # trials that it looks back on, at most
_DRAWS = 2000


@dataclass(frozen=True)
class Forecast:
    """The gain of the hypervolume by `trials` more trials, relative to now: median and 90 % interval.

    `small` is the probability that it stays below 1 %; `seconds` about how long these trials take, None where nobody
    knows.
    """

    trials: int
    gain: float
    low: float
    high: float
    small: float
    seconds: float | None = None

    @property
    def stable(self) -> bool:
        """Whether waiting for these trials is pointless."""
        return self.small >= SURE

    def __str__(self) -> str:
        """20 more trials (about 6 min) would bring about +0.8 % (0 to 2.1)."""
        gain, low, high = (f"{100 * value:.1f}" for value in (self.gain, self.low, self.high))
        time = "" if self.seconds is None else f" (about {duration(self.seconds)})"
        return f"{self.trials} more trials{time} would bring about +{gain} % ({low} to {high})"


def forecast(
    volumes: Sequence[float], ahead: int, *, seed: int = 0, seconds_each: float | None = None
) -> Forecast | None:
    """What `ahead` more trials bring. `volumes[i]`: the hypervolume after the i-th trial, not falling; `seconds_each`:
    how long one takes, where that is known.

    None while there are fewer than 30 trials since the first one with a volume above 0.
    """
    history = np.array([v for v in volumes if v > 0], float)
    if len(history) <= LEAST or ahead < 1:
        return None
    gains = np.maximum(np.diff(np.log(history)), 0.0)
    window = gains[-min(max(LEAST, len(gains) // 2), _LONGEST) :]
    half = len(window) // 2
    earlier, later = window[:half], window[half:]
    rng = np.random.default_rng([seed, len(history)])
    first = rng.choice(earlier, (_DRAWS, half)).mean(1)
    second = rng.choice(later, (_DRAWS, len(later)))
    second[::2, 0] = window.max()  # the made-up trial, in one simulation of two: it counts half
    means = second.mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.log(first / means) / half
    rate = np.clip(np.nan_to_num(rate, nan=0.0, posinf=0.0, neginf=0.0), 0.0, None)  # gains do not grow
    steps = np.arange(1, ahead + 1) + half / 2  # from the middle of the later half
    drawn = rng.permuted(np.tile(second, (1, -(-ahead // len(later)))), axis=1)[:, :ahead]
    total = np.expm1((drawn * np.exp(-rate[:, None] * steps)).sum(1))
    low, gain, high = (float(q) for q in np.quantile(total, (0.05, 0.5, 0.95)))
    seconds = None if seconds_each is None else ahead * seconds_each
    return Forecast(ahead, gain, low, high, float(np.mean(total < SMALL)), seconds)


def duration(seconds: float) -> str:
    """For people: 40 s, 6 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def normalised(volume: float, scales: Sequence[float]) -> float:
    """A hypervolume as a share of the box between the origin and the corner, whose sides are `scales`."""
    return volume / math.prod(scales)
