"""Keys that stand in the wrong table of a study file: where they belong."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from pydantic import BaseModel

from autotune import plugins
from autotune.config.tables import StudyConfig
from autotune.errors import UsageError

_FOUND_OUT = ("families", "left_out")  # never written by hand
_TECHNIQUES = "hw_autotune.techniques"


def belongs(key: str, here: str) -> str:
    """The tail of a message about a key that table `here` ("search", "techniques.prune", "" for the study itself) does
    not have: "; 'exclude' is a key of ...". "" where no other table has it."""
    places = list(dict.fromkeys(place for table, place in _tables_with(key) if table != here))
    return f"; {key!r} is {' or '.join(places)}" if places else ""


def _tables_with(key: str) -> Iterator[tuple[str, str]]:
    """(table, what a key of it is)."""
    if key in StudyConfig.model_fields and key not in _FOUND_OUT:
        if StudyConfig.model_fields[key].annotation in _TABLES.values() or key in _TABLES:
            yield "", f"a table of its own: [{key}]"
        else:
            yield "", "a key of the study itself: write it above the first [table]"
    for table, model in _TABLES.items():
        if key in model.model_fields:
            yield table, f"a key of [{table}]"
    for name in plugins.names(_TECHNIQUES):
        if name != "recover" and key in _options(name):
            yield f"techniques.{name}", f"a key of [techniques.{name}]"


def _tables() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in StudyConfig.model_fields.items():
        for each in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(each, type) and issubclass(each, BaseModel) and name not in (*_FOUND_OUT, "groups"):
                yield name, each


_TABLES = dict(_tables())


def _options(technique: str) -> Iterator[str]:
    try:
        yield from inspect.signature(plugins.load(_TECHNIQUES, technique)).parameters
    except UsageError:
        return  # one that cannot be loaded is told where it is asked for
