"""Opening a store: is it ours, does this version understand it, and if it is new or old, making it current.

Schema versions:
- 1: the first
- 2: every use of held-out data is written down

A version is Alembic's revision. Whoever opens an older store brings it up to date, in one transaction; a
store from a newer version is refused. The version table has a name of its own, because `alembic_version` may
belong to anybody.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from autotune.errors import DataError
from autotune.store import tables
from autotune.store.faults import disk_error, translated
from autotune.store.location import Location, make_engine

HEAD = 2
VERSION_TABLE = "autotune_schema"
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 60.0


def open_engine(location: Location, *, create: bool) -> sa.Engine:
    """An engine on a checked, current store; with `create` the store is made if it is not there.

    Raises `DataError` (missing, foreign, damaged or newer store), `DiskError`, `StoreLocked`, `UsageError`.
    """
    if location.file is not None:
        _prepare_file(location.file, create=create)
    engine = make_engine(location)
    if location.file is not None:
        _configure_sqlite(engine, location.file)
    try:
        with translated(location):
            version = _version(engine, location)
            if version is None and not create:
                raise DataError(f"store {location} is empty; run `autotune run {location.study}` first")
            if create and location.file is not None and os.access(location.file, os.W_OK):
                _switch_to_wal(engine)
            if version is None or (version < HEAD and not _only_read(location)):
                upgrade(engine, location)
    except BaseException:
        engine.dispose()
        raise
    return engine


def upgrade(engine: sa.Engine, location: Location) -> None:
    """Runs the missing migrations, in one transaction that keeps every other writer out."""
    from alembic import command  # slow to import, and hardly ever needed
    from alembic.config import Config

    with writing(engine) as connection:
        if (_version_in(connection, location) or 0) >= HEAD:
            return  # somebody else was faster
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        config.attributes["version_table"] = VERSION_TABLE
        command.upgrade(config, "head")


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A write transaction. It takes SQLite's write lock at once; after reading it might not get it."""
    with engine.execution_options(autotune_begin="IMMEDIATE").begin() as connection:
        yield connection


def _prepare_file(file: Path, *, create: bool) -> None:
    # NOTE: the file is not opened here to look at it. Closing it would drop the locks that other connections
    # of this process hold on it (POSIX), and SQLite itself recognises what is not a database.
    if file.exists():
        if not file.is_file():
            raise DataError(f"store {file} is not a regular file; give another one with --store")
    elif create:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(file.parent, error) from error
    else:
        raise DataError(f"there is no store {file}; run `autotune run STUDY` first, or give its store with --store")


def _configure_sqlite(engine: sa.Engine, file: Path) -> None:
    """Transactions begin when we say so, commits reach the disk, foreign keys hold, nobody's triggers are
    trusted.
    """

    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # or the driver would begin transactions by its own rules
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
        # NOTE: FULL, although WAL is consistent with NORMAL too: it costs 0.2 ms per commit where a trial
        # takes seconds, and a measurement that was paid for survives a power cut as well.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA trusted_schema=OFF")
        cursor.close()

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('autotune_begin', '')}")

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", begin)
    if file.exists() and not _writable(file):
        _open_read_only(engine, file)


def _writable(file: Path) -> bool:
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def _only_read(location: Location) -> bool:
    """A store on a read-only medium stays at its version; what came later is simply not in it."""
    return location.file is not None and location.file.exists() and not _writable(location.file)


def _open_read_only(engine: sa.Engine, file: Path) -> None:
    """A store on a read-only medium. Without a log beside it nobody is writing, so it may be read as
    immutable.
    """
    log = file.with_name(file.name + "-wal")
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    uri = f"{file.as_uri()}?{mode}"

    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, check_same_thread=False)

    sa.event.listen(engine, "do_connect", connect)


def _switch_to_wal(engine: sa.Engine) -> None:
    """Readers never block the writer in this mode. The busy timeout does not cover the switch, so it is
    repeated.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with engine.connect() as connection:
                cursor = connection.connection.cursor()  # the driver's own: SQLAlchemy would begin a transaction
                cursor.execute("PRAGMA journal_mode=WAL")
                cursor.close()
                return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise sa.exc.OperationalError("PRAGMA journal_mode=WAL", None, error) from error
            time.sleep(0.05)


def _version(engine: sa.Engine, location: Location) -> int | None:
    with engine.connect() as connection:
        return _version_in(connection, location)


def _version_in(connection: sa.Connection, location: Location) -> int | None:
    """The schema version; None for a database with nothing in it. Raises `DataError` for one that is not
    ours.
    """
    inspector = sa.inspect(connection)
    found = set(inspector.get_table_names())
    if VERSION_TABLE not in found:
        ours = found & set(tables.metadata.tables)
        if found if location.file is not None else ours:
            raise DataError(
                f"store {location} is a database of another program (it has the tables "
                f"{', '.join(sorted(found)[:5])}); give another one with --store"
            )
        return None
    _refuse_triggers(connection, location)
    rows = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()
    if len(rows) != 1 or not str(rows[0]).isdecimal():
        raise DataError(f"store {location} has no readable schema version; it is damaged, use another --store")
    version = int(rows[0])
    if version > HEAD:
        raise DataError(
            f"store {location} was written by a newer autotune (schema {version}, this one knows {HEAD}); "
            "upgrade hw-autotune"
        )
    missing = set(tables.metadata.tables) - found
    if version == HEAD and missing:
        raise DataError(f"store {location} lacks the tables {', '.join(sorted(missing))}; it is damaged")
    return version


def _refuse_triggers(connection: sa.Connection, location: Location) -> None:
    """We make no triggers, so one in the file was put there by somebody else, to run on our writes."""
    if location.file is None:
        return
    query = "SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view')"
    found = connection.exec_driver_sql(query).scalars().all()
    if found:
        raise DataError(f"store {location} has a trigger or view that autotune did not make: {found[0]}; drop it")
