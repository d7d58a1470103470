"""Limits on the command line: `--max-size 10MB`, `--max-drop/night 2pt`, `--min-accuracy 90%`, `--max KEY=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Annotated

import typer

from autotune.config.amounts import Asked
from autotune.errors import UsageError
from autotune.keys import MetricKey, parse_amount

# The short options that have names of their own, and the metric key of each.
KEYS = {
    "--max-size": "size_bytes",
    "--max-latency-p50": "latency_p50",
    "--max-latency-p90": "latency_p90",
    "--max-latency-ratio": "latency_ratio",
    "--max-memory": "memory_peak",
    "--max-energy": "energy_j",
    "--max-drop": "drop/worst",
    "--min-accuracy": "accuracy",
}
_READERS = ("run", "front", "judge")  # commands that take limits
_SHORT = re.compile(r"--(?P<kind>max|min)-(?P<name>[A-Za-z][A-Za-z0-9_-]*)(/(?P<rest>.+))?")
# What was typed in place of `--max KEY=VALUE`, for messages: the parser of options passes on plain text alone.
_TYPED: ContextVar[Mapping[str, str]] = ContextVar("typed limits")
_ANY = [MetricKey(name) for name in ("drop", "size_bytes", "latency_p50", "latency_ratio", "energy_j")]


def _option(name: str, metavar: str, help_: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar=metavar, help=help_, rich_help_panel="Budget")
    return option


Limits = list[str] | None
MaxSize = Annotated[Limits, _option("--max-size", "10MB", "Largest model file.")]
MaxP50 = Annotated[Limits, _option("--max-latency-p50", "8ms[@T]", "Median latency; without @T on every target.")]
MaxP90 = Annotated[Limits, _option("--max-latency-p90", "9ms[@T]", "Nine of ten inferences are faster.")]
MaxRatio = Annotated[Limits, _option("--max-latency-ratio", "0.7x[@T]", "Time relative to the original.")]
MaxMemory = Annotated[Limits, _option("--max-memory", "200MB[@T]", "Memory of model and inference.")]
MaxEnergy = Annotated[Limits, _option("--max-energy", "5mJ[@T]", "Energy of an inference.")]
MaxDrop = Annotated[
    Limits, _option("--max-drop", "1pt", "What any slice may lose; --max-drop/SLICE 2pt: what that slice may.")
]
MinAccuracy = Annotated[Limits, _option("--min-accuracy", "90%", "Also --min-METRIC and --min-METRIC/SLICE.")]
Largest = Annotated[Limits, _option("--max", "KEY=VALUE", "Any metric key, e.g. flips/night=3%.")]
Smallest = Annotated[Limits, _option("--min", "KEY=VALUE", "Any metric key, e.g. f1/night=80%.")]


def asked(
    named: Mapping[str, Sequence[str] | None], largest: Sequence[str] | None, smallest: Sequence[str] | None
) -> list[Asked]:
    """What the options ask for; `named` is option -> its amounts. Raises `UsageError` for a word without KEY=VALUE."""
    found = []
    for option, amounts in named.items():
        for amount in amounts or ():
            found.append(Asked(f"{option} {amount}", KEYS[option], amount, option.startswith("--max")))
    for option, words in (("--max", largest or ()), ("--min", smallest or ())):
        for word in words:
            key, equals, amount = word.rpartition("=")
            if not equals or not key:
                raise UsageError(f"{option} {word!r}: write KEY=VALUE, e.g. --max size_bytes=10MB")
            said = f"{option} {word}"
            found.append(Asked(_TYPED.get({}).get(said, said), key, amount, option == "--max"))
    return found


def spread_limits(words: Sequence[str]) -> list[str]:
    """`--max-drop/night 2pt` as `--max drop/night=2pt`, and every short form so where the command has no such option.

    Options cannot be declared for slices and metrics that only the study knows. `--max-drop/night=2pt` is understood
    too; where the name of a slice holds an equals sign, the amount is the next word.
    """
    typed: dict[str, str] = {}
    _TYPED.set(typed)
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in _READERS:
        return list(words)
    spread: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        limit = _limit(word, rest[0] if rest else "", named=command == "run")
        if limit is None:
            spread.append(word)
            continue
        kind, key, amount, took = limit
        spread += [f"--{kind}", f"{key}={amount}"]
        typed[" ".join(spread[-2:])] = " ".join([word, *rest[:took]])
        del rest[:took]
    return spread


def _limit(word: str, following: str, *, named: bool) -> tuple[str, str, str, int] | None:
    """(max or min, key, amount, how many further words that took), or None for what is no such option."""
    plain, equals, tail = word.rpartition("=")
    if _is_amount(following):
        option, amount, took = word, following, 1
    elif equals and _is_amount(tail):
        option, amount, took = plain, tail, 0
    else:
        return None
    match = _SHORT.fullmatch(option)
    if match is None:
        return None
    base = f"--{match['kind']}-{match['name']}"
    declared, misspelt = named and base in KEYS, match["kind"] == "max" and base not in KEYS
    if match["rest"] is None and (declared or misspelt):
        return None  # the parser of options knows it, or what is near
    key = KEYS.get(base, match["name"].replace("-", "_"))
    if match["rest"] is not None:
        slice_ = "" if match["rest"] == "all" else f"/{match['rest']}"
        key = key.partition("/")[0] + slice_
    text, at, target = amount.partition("@")
    return match["kind"], key + at + target, text, took


def _is_amount(word: str) -> bool:
    text = word.partition("@")[0]
    for key in _ANY:
        try:
            parse_amount(text, key)
        except UsageError:
            continue
        return True
    return False
