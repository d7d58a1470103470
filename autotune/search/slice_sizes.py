"""Which slices are too small for what is asked of them, and how many samples would do: told before the search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import NamedTuple

from autotune.config import StudyConfig, tightest
from autotune.judge.intervals import ONE_SIDED
from autotune.judge.power import POWER, enough_for
from autotune.judge.spending import share
from autotune.keys import COST_METRICS, WORST, MetricKey, format_amount, parse_key
from autotune.slices import ALL
from autotune.trial import Value


class _Asked(NamedTuple):
    """A limit on one slice, in words, and the samples that decide it."""

    words: str
    enough: int


def too_small(config: StudyConfig, sizes: Mapping[str, int], original: Mapping[str, Value]) -> list[str]:
    """One sentence for each limit on a slice that has too few samples to decide it, and for what the general limit does
    not decide.

    `sizes`: slice -> samples. `original` are the metrics of trial 0. Constraints count as the budget does.
    """
    said, small = [], []
    part = share(0, config.finalists.count)  # of the error: as one of the finalists
    general = config.limits[f"drop/{WORST}"]  # of constraints, budget and judge.limit the tightest
    enough = enough_for(general, share=part)
    asked = _asked(config, sizes, original, part)
    for name, n in sizes.items():
        undecided = [each for each in asked.get(name, ()) if n < each.enough]
        if undecided:
            hardest = max(undecided, key=lambda each: each.enough)
            said.append(f"slice {name!r} has {n} samples and {hardest.words}; about {hardest.enough:,} would decide")
        elif n < config.judge.floor:
            said.append(f"slice {name!r} has {n} samples: fewer than judge.floor = {config.judge.floor} pass nothing")
        elif n < enough and name not in config.slice_limits:
            small.append((n, name))
    if small:
        n, name = min(small)
        said.append(
            f"{len(small)} of {len(sizes)} slices are too small to pass {100 * general:g} points "
            f"for certain: about {enough:,} samples would decide, {name!r} has {n}"
        )
    return said


def _asked(
    config: StudyConfig, sizes: Mapping[str, int], original: Mapping[str, Value], part: float
) -> dict[str, list[_Asked]]:
    """Slice -> the limits that name it."""
    found: dict[str, list[_Asked]] = {}
    for text, limit in tightest(config.constraints, config.budget).items():
        key = parse_key(text)
        if key.name not in (*COST_METRICS, "flips") and key.slice != WORST:
            name = key.slice or ALL
            if name not in sizes:  # the drop of a further metric: drop/f1:night
                name = name.partition(":")[2] or ALL
            found.setdefault(name, []).extend(_one(key, limit, original.get(text), part))
    return found


def _one(key: MetricKey, limit: float, original: Value | None, part: float) -> Iterator[_Asked]:
    if key.name == "drop":
        yield _Asked(f"a limit of {100 * limit:g} points", enough_for(limit, share=part))
    elif original is not None and original.value > limit:
        yield _Asked(f"a limit of {format_amount(limit, key)} on {key.name}", _enough_above(original.value, limit))


def _enough_above(value: float, limit: float) -> int:
    """Samples from which the interval of a metric that is truly `value` lies above `limit` in 80 % of cases.

    By the variance of a right-or-wrong score, which no other score between 0 and 1 exceeds (normal approximation); at
    least as many as without a single wrong answer show the limit (exact).
    """
    z = NormalDist().inv_cdf(1 - ONE_SIDED) + NormalDist().inv_cdf(POWER)
    variance = value * (1 - value) if 0 < value < 1 else 0.0
    faultless = math.log(ONE_SIDED) / math.log(limit) if 0 < limit < 1 else 1.0
    return max(math.ceil(faultless), math.ceil(z**2 * variance / (value - limit) ** 2))
