"""Where a store is: a file or a database URL, and the folder that goes with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from autotune.errors import UsageError

RUNS = Path("autotune-runs")  # under the current directory

_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_USERINFO = re.compile(r"(?P<head>[A-Za-z][\w+.-]*://[^\s:/@]*):(?P<secret>[^\s/]*)@")
_SECRET_PAIR = re.compile(r"(?i)\b(?P<head>[\w.-]*(?:pass|pwd|secret|token|key)[\w.-]*\s*=\s*)[^\s&;'\"]+")
_DRIVERS = {"psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient"}


def redact(text: str) -> str:
    """`text` without the passwords of URLs and without values of parameters that sound secret."""
    return _SECRET_PAIR.sub(r"\g<head>***", _USERINFO.sub(r"\g<head>:***@", text))


@dataclass(frozen=True)
class Location:
    """`file` is set for SQLite. `folder` holds `artifacts/` and whatever else a study keeps."""

    study: str
    url: URL
    file: Path | None
    folder: Path

    @property
    def journal(self) -> Path:
        """Of the Optuna view. Stores in one folder have one each: two of the same study would be one study in it."""
        own = "" if self.file is None or self.file.name == "store.db" else f"{self.file.stem}."
        return self.folder / f"{own}optuna.log"

    def __str__(self) -> str:
        """For people: never shows a password."""
        return str(self.file) if self.file is not None else redact(str(self.url))


def locate(store: str | Path | None, study: str) -> Location:
    """Raises `UsageError` for a name or URL that cannot be meant."""
    if not _STUDY.fullmatch(study):
        raise UsageError(
            f"study name {study!r}: use letters, digits, '.', '_' and '-', starting with a letter or digit"
        )
    if store is None:
        return _file(RUNS / study / "store.db", study)
    if isinstance(store, str) and re.match(r"^[A-Za-z][\w+.-]+://", store):
        return _url(store, study)
    if str(store) in ("", ":memory:") or re.match(r"^(sqlite|postgres|mysql)[\w+]*:", str(store)):
        raise UsageError(f"store {redact(str(store))!r}: give a file, or a URL such as postgresql://host/database")
    return _file(Path(store).expanduser(), study)


def _file(path: Path, study: str) -> Location:
    if "\0" in str(path):
        raise UsageError(f"store {str(path)!r} is not a file name")
    if path.is_dir():
        raise UsageError(f"store {path} is a folder; give a file, e.g. {path / 'store.db'}")
    absolute = path.absolute()
    return Location(study, URL.create("sqlite", database=str(absolute)), absolute, absolute.parent)


def _url(text: str, study: str) -> Location:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise UsageError(f"store URL {redact(text)!r} is malformed; write dialect://user@host/database") from error
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:" or url.database.startswith("file:") or url.query:
            raise UsageError(f"store URL {redact(text)!r}: for SQLite give the file itself, without options")
        return _file(Path(url.database), study)
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    return Location(study, url, None, (RUNS / study).absolute())


def make_engine(location: Location) -> sa.Engine:
    """Connects to nothing yet. Raises `UsageError` when the URL needs a driver that is not there."""
    try:
        return sa.create_engine(location.url, pool_pre_ping=location.file is None)
    except NoSuchModuleError as error:
        raise UsageError(
            f"store {location}: unknown database {location.url.drivername!r}; use a file or postgresql://..."
        ) from error
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(error.name or "", error.name)
        raise UsageError(
            f"store {location} needs the Python package {error.name}; run: pip install '{package}'"
        ) from error
    except ArgumentError as error:
        raise UsageError(f"store {location}: {redact(str(error))}") from error
