"""The report of a study, written by whatever is registered for its format under `hw_autotune.reports`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autotune import plugins

if TYPE_CHECKING:
    from autotune.store import Store

GROUP = "hw_autotune.reports"


def write_report(store: Store, path: Path | str, *, title: str | None = None, kind: str = "html") -> Path:
    """Write the report of the study in `store` to `path`, and return the path.

    Raises `UsageError` for an unknown `kind`, `DataError` for a study without trials, `DiskError` where the file
    cannot be written.
    """
    written: Path = plugins.load(GROUP, kind)(store, Path(path), title=title)
    return written
