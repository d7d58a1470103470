"""What a warm start names: a store with a study in it, a recipe file, or the folder of either."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import AutotuneError, DataError
from autotune.recipe import Recipe
from autotune.store import redact
from autotune.store.location import RUNS

_URL = re.compile(r"^[A-Za-z][\w+.-]+://")
_MAX_BYTES = 16 << 20  # a recipe of 10,000 layers has one


@dataclass(frozen=True)
class Place:
    """`store` (with a study's name, or None for the only one there) or `recipe` is set."""

    entry: str
    store: str | Path | None = None
    study: str | None = None
    recipe: Path | None = None


def place_of(entry: str) -> Place:
    """Raises `DataError` when nothing of that name is there."""
    if _URL.match(entry):
        url, found, study = entry.partition("#")
        return Place(entry, store=url, study=study if found else None)
    path = Path(entry).expanduser()
    if path.is_dir():
        return _folder(entry, path)
    if path.suffix == ".json":
        return Place(entry, recipe=path)
    if path.exists():
        return Place(entry, store=path)
    text, found, study = entry.rpartition("#")
    if found:
        return Place(entry, store=Path(text).expanduser(), study=study)
    named = RUNS / entry / "store.db"
    if path.name == entry and named.is_file():
        return Place(entry, store=named, study=entry)
    raise DataError(
        "there is no such store, study, bundle or recipe file; name a store (FILE, FILE#STUDY or URL#STUDY), a recipe "
        "file (.json) or the folder of a bundle"
    )


def read_recipe(file: Path) -> Recipe:
    """Raises `DataError` for a file that cannot be read or is no recipe."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DataError(f"{file}: too large for a recipe")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{file}: cannot be read: {reason}") from error
    recipe = Recipe.from_json(text)
    if not recipe:
        raise DataError(f"{file}: an empty recipe: it is the original model, which every study begins with")
    return recipe


@contextmanager
def blamed_on(entry: str) -> Iterator[None]:
    """Whatever goes wrong with it is said to be about this entry of `search.warm_start`."""
    try:
        yield
    except AutotuneError as error:
        raise type(error)(f"warm start {redact(entry)!r}: {error}") from error


def _folder(entry: str, path: Path) -> Place:
    if (path / "recipe.json").is_file():
        return Place(entry, recipe=path / "recipe.json")
    if (path / "store.db").is_file():
        return Place(entry, store=path / "store.db")
    raise DataError("the folder holds neither a recipe.json (a bundle) nor a store.db (a study's records)")
