"""Which value of a metric concerns a target: with several runtime families its own, else the one that all share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from autotune.keys import WORST, MetricKey, parse_key


def own_key(key: MetricKey, target: str, known: Collection[str]) -> MetricKey:
    """The key as `target` has it: with its name where its family has a value of its own (`known` are all keys)."""
    if key.target not in (None, WORST):
        return key
    mine, shared = replace(key, target=target), replace(key, target=None)
    return mine if str(mine) in known else shared


def of_target(limits: Mapping[str, float], target: str, known: Collection[str]) -> dict[str, float]:
    """The limits that concern a target, by its own keys. One that names it counts before one that names none."""
    keys = {parse_key(text): limit for text, limit in limits.items()}
    found = {str(own_key(key, target, known)): limit for key, limit in keys.items() if key.target is None}
    return {**found, **{str(key): limit for key, limit in keys.items() if key.target == target}}
