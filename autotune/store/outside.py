"""Stores of other studies, only read: never made, brought up to date or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from autotune.errors import DataError
from autotune.store import records, rows, schema, tables
from autotune.store.faults import translated
from autotune.store.location import Location, locate, make_engine
from autotune.store.store import Store

_ANY = "any"  # a place has to be named before the names of its studies are known


def read_other(place: str | Path, study: str | None) -> Store:
    """The records of another study, for reading; writing to it fails. None: the only study that is there.

    Schema versions up to this one's are read as they are. Raises `DataError` (missing, foreign, damaged or newer store,
    no such study, several where one has to be named), `UsageError`, `StoreLocked`, `DiskError`.
    """
    location = locate(place, study or _ANY)
    engine = _open(location)
    try:
        with translated(location), engine.connect() as connection:
            there = sorted(connection.execute(sa.select(tables.study.c.name)).scalars())
    except BaseException:
        engine.dispose()
        raise
    if study is None and len(there) == 1:
        return Store(locate(place, there[0]), engine)
    if study in there:
        return Store(location, engine)
    engine.dispose()
    if not there:
        raise DataError(f"store {location} holds no study yet")
    names = ", ".join(there)
    if study is None:
        raise DataError(f"store {location} holds several studies; write {location}#STUDY with one of {names}")
    raise DataError(f"no study {study!r} in store {location} (studies there: {names})")


def facts_of(store: Store, prefix: str) -> dict[str, Any]:
    """Everything that `set_meta` kept under keys with this prefix; the keys without it."""
    table = tables.meta
    with store._read() as connection:
        mine = table.c.study_id == rows.find_study(connection, store.study)
        query = sa.select(table.c.key, table.c.value).where(mine, table.c.key.startswith(prefix, autoescape=True))
        found = connection.execute(query).all()
    return {key.removeprefix(prefix): records.decode_json(text, f"meta {key!r}") for key, text in found}


def _open(location: Location) -> sa.Engine:
    if location.file is not None:
        schema._prepare_file(location.file, create=False)
    engine = make_engine(location)
    if location.file is not None:
        schema._open_read_only(engine, location.file)
        schema._configure_sqlite(engine, location.file)
    else:
        engine = engine.execution_options(postgresql_readonly=True)
    try:
        with translated(location):
            if schema._version(engine, location) is None:
                raise DataError(f"store {location} is empty")
    except BaseException:
        engine.dispose()
        raise
    return engine
