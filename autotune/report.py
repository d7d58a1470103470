"""The report of a study, written by whatever is registered for its format under `hw_autotune.reports`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autotune import plugins

if TYPE_CHECKING:
    from autotune.store import Store

GROUP = "hw_autotune.reports"


def default_path(store: Store) -> Path:
    """Where the report of the study in `store` goes if nobody says so: report.html beside the store.

    Where other studies or store files lie there, too, the name tells whose report it is: none overwrites another's.
    """
    name, file = "report", store.file
    if file is not None:  # the studies of a server have a folder each
        several = len([each for each in file.parent.glob(f"*{file.suffix}") if each.is_file()]) > 1
        name += f"-{file.stem}" if several else ""
        name += f"-{store.study}" if len(store.studies()) > 1 else ""
    return store.folder / f"{name}.html"


def write_report(store: Store, path: Path | str, *, title: str | None = None, kind: str = "html") -> Path:
    """Write the report of the study in `store` to `path`, and return the path.

    Raises `UsageError` for an unknown `kind`, `DataError` for a study without trials, `DiskError` where the file
    cannot be written.
    """
    written: Path = plugins.load(GROUP, kind)(store, Path(path), title=title)
    return written
