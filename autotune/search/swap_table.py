"""Latency tables from measured swaps: what the sampler is told of each parameter's choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autotune.judge.intervals import Z
from autotune.recipe import NONE, Recipe
from autotune.search.prepare import Prepared
from autotune.search.space import Space
from autotune.search.swaps import LATENCIES, Swap, known, starting_ratio
from autotune.store import Store

Table = dict[str, dict[str, float]]  # parameter -> choice -> what it adds


def better_guesses(
    store: Store, prepared: Prepared, keys: Sequence[str], profiled: Mapping[int, Table]
) -> dict[int, Table]:
    """Objective -> the guess of its latency: that of the swaps, or `profiled` where its error is no larger.

    The error is the mean distance of what a table adds up to from what trials were measured to take.
    """
    guesses = dict(profiled)
    original = store.trial(0).metrics
    for index, text in enumerate(keys):
        name, _, target = text.partition("@")
        if name not in LATENCIES or target not in prepared.timed or text not in original:
            continue
        swaps = known(store, target, prepared.devices[target].fingerprint.key)
        unit = 1.0 if name == "latency_ratio" else original[text].value
        profile = profiled.get(index)
        swapped = table(prepared.space, swaps, unit, profile or {})
        if not swapped:
            continue
        start = starting_ratio(store, prepared.space, target)
        errors = [_error(store, prepared.space, text, each, (start or 1.0) * unit) for each in (swapped, profile)]
        if errors[1] is None or errors[0] is None or errors[0] < errors[1]:
            guesses[index] = swapped
    return guesses


def table(space: Space, swaps: Sequence[Swap], unit: float, profile: Mapping[str, Mapping[str, float]]) -> Table:
    """Parameter -> choice -> what it adds: the gain of a block, spread over its parameters as the profile has it.

    A gain is believed as far as it is exact: it is pulled towards what the profile adds up to by its own noise against
    how much measured gains differ from profiled ones (empirical Bayes, Efron and Morris 1975). Where the profile says
    nothing that is 0, and parameters get equal parts. A choice that was not swapped is as in the profile, or gains what
    the others do in the mean. Empty where no swap was measured.
    """
    names = {v.name for v in space.variables}
    there = [swap for swap in swaps if swap.gain is not None and names >= set(swap.params)]
    if not there:
        return {}
    profiled = [np.array([profile.get(n, {}).get(c, 0.0) for n, c in swap.params.items()]) for swap in there]
    expected = np.array([gains.sum() for gains in profiled])
    away = np.array([unit * (swap.gain or 0.0) for swap in there]) - expected
    noise = np.array([(unit * swap.margin / Z) ** 2 for swap in there])
    spread = max(0.0, float(np.mean(away**2 - noise)))
    gained = expected + away * np.divide(spread, spread + noise, out=np.ones_like(noise), where=spread + noise > 0)
    found: Table = {}
    for swap, gain, gains in zip(there, gained.tolist(), profiled, strict=True):
        weights = np.abs(gains)
        parts = weights / weights.sum() if weights.sum() > 0 else np.full(len(gains), 1 / len(gains))
        for (name, choice), part in zip(swap.params.items(), parts.tolist(), strict=True):
            found.setdefault(name, {})[choice] = part * gain
    return {
        v.name: _complete(v.choices, found.get(v.name, {}), profile.get(v.name, {}))
        for v in space.variables
        if v.name in found or v.name in profile
    }


def _complete(choices: Sequence[str], swapped: Mapping[str, float], profile: Mapping[str, float]) -> dict[str, float]:
    middle = sum(swapped.values()) / len(swapped) if swapped else 0.0
    return {choice: 0.0 if choice == NONE else swapped.get(choice, profile.get(choice, middle)) for choice in choices}


def _error(
    store: Store, space: Space, key: str, guess: Mapping[str, Mapping[str, float]] | None, start: float
) -> float | None:
    """Mean distance of the guess from the trials in which anything was chosen; None without guess or trials."""
    if not guess:
        return None
    errors = []
    for trial in store.trials(details=False):
        params = space.params(Recipe(trial.recipe))
        if params is None or key not in trial.metrics or all(choice == NONE for choice in params.values()):
            continue
        added = sum(guess.get(name, {}).get(choice, 0.0) for name, choice in params.items())
        errors.append(abs(start + added - trial.metrics[key].value))
    return float(np.mean(errors)) if errors else None
