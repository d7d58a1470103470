"""From the tables of a study file to typed ones. What is wrong is told with file, line and key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autotune.config.amounts import impossible
from autotune.config.misplaced import belongs
from autotune.config.source import Location, Source
from autotune.config.tables import LEAST_DROP, QuantizeTable, StudyConfig
from autotune.errors import UsageError, did_you_mean
from autotune.keys import MetricKey, parse_amount, parse_key

LIMITS = ("constraints", "budget")  # tables of metric key -> limit
_TECHNIQUE_TABLES: dict[str, type[BaseModel]] = {"quantize": QuantizeTable}

Table = TypeVar("Table", bound=BaseModel)


def validated(source: Source, data: dict[str, Any]) -> StudyConfig:
    """The study that the tables of a file say. Raises `ConfigError`."""
    for path, value in _leaves(data):
        if isinstance(value, float) and not math.isfinite(value):
            raise source.error(path, f"must be a finite number, not {value}")
    for found_out in ("families", "left_out"):
        if found_out in data:
            raise source.error((found_out,), "is found out from the targets; leave it out")
    data = {**data, **{table: _amounts(source, table, data[table]) for table in LIMITS if table in data}}
    config = _parse(source, StudyConfig, data, ())
    if config.judge.limit < LEAST_DROP:  # stores of before may hold it
        raise source.error(("judge", "limit"), impossible(MetricKey("drop"), config.judge.limit))
    for name, options in config.techniques.items():
        if name in _TECHNIQUE_TABLES:
            _parse(source, _TECHNIQUE_TABLES[name], options, ("techniques", name))
    return config


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value


def _amounts(source: Source, table: str, limits: object) -> object:
    """Limits may be written for people, e.g. size_bytes = "10MB". Those that cannot be are refused."""
    if not isinstance(limits, dict):
        return limits
    result = dict(limits)
    for text, value in limits.items():
        try:
            key = parse_key(text)
            result[text] = parse_amount(value, key) if isinstance(value, str) else value
        except UsageError as error:
            raise source.error((table, text), str(error)) from error
        number = result[text]
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        problem = impossible(key, number) if plain else ""
        if problem:
            raise source.error((table, text), problem)
    return result


def _parse(source: Source, table: type[Table], data: object, prefix: Location) -> Table:
    # JSON mode is the strict mode that still lets an array be a tuple and a whole number be a float.
    try:
        return table.model_validate_json(json.dumps(data, default=_foreign), strict=True)
    except ValidationError as error:
        # An unknown key first: a misspelt one is also the reason why another is missing.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        path = (*prefix, *first["loc"])
        elsewhere = belongs(str(path[-1]), _table_of(path)) if first["type"] == "extra_forbidden" else ""
        raise source.error(path, _problem(table, first) + elsewhere) from error


def _table_of(path: Location) -> str:
    """The table that a key stands in: "techniques.prune", "" for the study itself."""
    return ".".join(str(part) for part in path[:-1] if not isinstance(part, int))


def _foreign(value: object) -> dict[str, str]:
    """Dates and times are TOML but nothing of ours: a table, which no field here accepts."""
    return {"not a plain value": str(value)}


def _problem(table: type[BaseModel], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        known = _fields(table, error["loc"][:-1])
        return f"unknown key; {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return "is missing; every study needs it" if len(error["loc"]) == 1 else "is missing"
    message = error["msg"][0].lower() + error["msg"][1:]
    shown = repr(error["input"])
    return f"{message}, not {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _fields(table: type[BaseModel], path: Location) -> Iterable[str]:
    """Names of the keys of the table that `path` leads to."""
    for part in path:
        if isinstance(part, int):
            continue
        annotation = table.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        table = next(t for t in inner if isinstance(t, type) and issubclass(t, BaseModel))
    return table.model_fields
