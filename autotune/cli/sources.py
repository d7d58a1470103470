"""From what was typed to the study, its store and the original command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from autotune.config import StudyConfig, load_study
from autotune.errors import ConfigError, DataError, UsageError, did_you_mean
from autotune.keys import MetricKey, names_target, parse_amount, parse_key

if TYPE_CHECKING:
    from autotune.store import Store


def open_recorded(study: str, store: str | None) -> tuple[StudyConfig, Store]:
    """The study's table and its existing store, for commands that only read. Runs no user code.

    The store's own copy of the study counts, as the file may have changed since. A study without a file, e.g.
    one that was started from Python, is found by its name in autotune-runs or by `--store`. Raises
    `ConfigError` for an unknown study, `DataError` where nothing is recorded yet.
    """
    from autotune.store import open_store

    try:
        name = load_study(study).config.name
    except ConfigError:
        if store is None and not (Path("autotune-runs") / study / "store.db").is_file():
            raise
        name = study
    opened = open_store(store, name, must_exist=True)
    recorded = opened.config_json
    if recorded is None:
        opened.close()
        raise DataError(
            f"study {name!r}: its store holds no run yet; start one with `autotune run {shlex.quote(study)}`"
        )
    try:
        return StudyConfig.model_validate_json(recorded), opened
    except ValidationError as error:
        opened.close()
        raise DataError(f"study {name!r}: its store {opened.place} holds a configuration of another version") from error


def parse_limits(largest: list[str], smallest: list[str], config: StudyConfig, metric: str | None) -> dict[str, float]:
    """`KEY=VALUE` words of --max and --min as limits. Raises `UsageError`."""
    limits: dict[str, float] = {}
    for option, words in (("--max", largest), ("--min", smallest)):
        for word in words:
            text, equals, amount = word.rpartition("=")
            if not equals or not text:
                raise UsageError(f"{option} {word!r}: write KEY=VALUE, e.g. --max size_bytes=10MB")
            key = check_key(text, config, metric)
            other = "--min" if option == "--max" else "--max"
            if key.smaller_is_better != (option == "--max"):
                better = "smaller" if key.smaller_is_better else "larger"
                raise UsageError(f"{option} {word!r}: {better} is better for {key.name}; use {other}")
            limits[str(key)] = parse_amount(amount, key)
    return limits


def check_key(text: str, config: StudyConfig, metric: str | None) -> MetricKey:
    """A metric key of this study. Raises `UsageError` with the nearest known."""
    key = parse_key(text, metric=metric)
    if not names_target(key, config.targets):
        raise UsageError(
            f"{text!r}: the study has no target {key.target!r}; {did_you_mean(str(key.target), config.targets)}"
        )
    return key


def parse_trial(text: str) -> int:
    """A trial number as typed. Raises `UsageError`."""
    if not text.isdecimal():
        raise UsageError(f"TRIAL {text!r}: write the number of a trial, as in the table of `autotune front`")
    return int(text)
