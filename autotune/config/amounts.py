"""Limits as people write them: in `[constraints]` and `[budget]`, on the command line and in Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune.config.families import check_shared, families_of
from autotune.config.tables import LEAST_DROP, StudyConfig
from autotune.errors import UsageError, did_you_mean
from autotune.keys import COST_METRICS, JUDGED_METRICS, MetricKey, format_amount, names_target, parse_amount, parse_key
from hwprofiles.target import Target

_SMALLEST = "give the smallest loss that matters, e.g. 0.1pt"


@dataclass(frozen=True)
class Asked:
    """One limit as it was typed: `--max-latency-p90 8ms@rpi5` has the key "latency_p90" and the amount "8ms@rpi5".

    `key` may lack the target that it needs: then it is at the end of `amount`, or all targets are meant.
    """

    said: str  # the words of the command line, for messages
    key: str
    amount: str
    largest: bool = True  # a maximum, not a minimum

    def __str__(self) -> str:
        return self.said


def read_asked(asked: Iterable[Asked], targets: Sequence[Target]) -> dict[str, tuple[float, Asked]]:
    """Metric key -> its limit and who asked for it. A cost without a target is meant for every one that is hardware.

    Raises `UsageError` for what is no metric key, amount or target of the study, for a maximum of what should be large
    (and the other way round), for what cannot be, and for a key that is limited twice.
    """
    found: dict[str, tuple[float, Asked]] = {}
    for each in asked:
        for key, limit in _read_one(each, targets):
            if str(key) in found:
                raise UsageError(f"{each}: {key} is limited by {found[str(key)][1]} already; give one of them")
            found[str(key)] = limit, each
    return found


def _read_one(asked: Asked, targets: Sequence[Target]) -> Iterator[tuple[MetricKey, float]]:
    text, at, place = asked.amount.partition("@")
    try:
        for key in keys_meant(asked.key + at + place, targets):
            if key.smaller_is_better != asked.largest:
                better, other = ("smaller", "--max") if key.smaller_is_better else ("larger", "--min")
                raise UsageError(f"{better} is better for {key.name}; use {other}")
            limit = parse_amount(text, key)
            problem = impossible(key, limit)
            if problem:
                raise UsageError(problem)
            yield key, limit
    except UsageError as error:
        raise UsageError(f"{asked}: {error}") from error


def read_budget(budget: Mapping[str, float | str], targets: Sequence[Target]) -> dict[str, float]:
    """A budget as Python code gives it. A cost without a target is meant for every one that is hardware.

    Raises `UsageError` as `read_asked` does.
    """
    found: dict[str, float] = {}
    for text, amount in budget.items():
        for key in keys_meant(text, targets):
            limit = parse_amount(amount, key) if isinstance(amount, str) else float(amount)
            if str(key) in found:
                raise UsageError(f"budget {text!r}: {key} is limited twice; give one limit")
            if problem := impossible(key, limit):
                raise UsageError(f"budget {text!r}: {problem}")
            found[str(key)] = limit
    return found


def keys_meant(text: str, targets: Sequence[Target]) -> list[MetricKey]:
    """The key that `text` names; for a cost that lacks its target, that of every target which is hardware.

    Raises `UsageError` for a malformed key and a target that the study has not, or that is no hardware.
    """
    if text in COST_METRICS and COST_METRICS[text][2]:
        keys = [MetricKey(text, None, target.name) for target in targets if target.provenance == "hardware"]
        if not keys:
            raise UsageError(f"{text}: no target of the study is hardware, so there is nothing to measure it on")
        return keys
    key = parse_key(text)
    names = [target.name for target in targets]
    if not names_target(key, names):
        raise UsageError(f"the study has no target {key.target!r}; {did_you_mean(str(key.target), names)}")
    check_shared(text, families_of(targets))
    kind = next((target.provenance for target in targets if target.name == key.target), "hardware")
    if key.name in COST_METRICS and kind != "hardware":
        raise UsageError(f"target {key.target!r} is {kind}: its times and bytes are not those of hardware")
    return [key]


def impossible(key: MetricKey, limit: float) -> str:
    """Why nothing can meet this limit, or everything does, whatever the model; "" where that depends on it."""
    if key.name in COST_METRICS and limit <= 0:
        return f"{key} of at most {format_amount(limit, key)} cannot be met; give an amount above 0"
    if key.name in JUDGED_METRICS and limit < 0:
        least = "0 is no changed answer at all" if key.name == "flips" else _SMALLEST
        return f"{key} of at most {format_amount(limit, key)} asks for more than the original has; {least}"
    if key.name == "drop" and limit < LEAST_DROP:
        return (
            f"{key} of at most {100 * limit:g} pt cannot be shown by any number of samples, not even of a model that "
            f"is as good as the original; {_SMALLEST}"
        )
    if key.name in JUDGED_METRICS and limit >= 1:
        points = format_amount(limit, key)
        return f"{key} of at most {points} limits nothing; {limit:g} percentage points are written {limit:g}pt"
    if key.name == "accuracy" and limit > 1:
        return f"{key} of at least {format_amount(limit, key)} cannot be met; {limit:g} percent are written {limit:g}%"
    return ""


def idle(config: StudyConfig) -> list[str]:
    """Limits that do nothing, because another one of the same study is tighter: one sentence each."""
    said = []
    for text, limit in config.budget.items():
        key = parse_key(text)
        constraint = config.constraints.get(text)
        if constraint is not None and (constraint < limit if key.smaller_is_better else constraint > limit):
            said.append(
                f"budget {text} {format_amount(limit, key)}: the constraint {format_amount(constraint, key)} is "
                "tighter and counts"
            )
    limits = {parse_key(text): limit for text, limit in config.limits.items()}
    for key, limit in limits.items():
        wider = _implied_by(key)
        if wider is not None and wider in limits and limits[wider] < limit:
            tighter = format_amount(limits[wider], wider)
            said.append(f"{key} {format_amount(limit, key)}: {wider} {tighter} is tighter and counts")
    return said


def _implied_by(key: MetricKey) -> MetricKey | None:
    """The key that is never smaller than `key`."""
    if key.name == "latency_p50":
        return MetricKey("latency_p90", None, key.target)
    return None


def _named(config: StudyConfig, text: str) -> bool:
    return text in config.budget or text in config.constraints
