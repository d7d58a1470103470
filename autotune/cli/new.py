"""`autotune new`: a study to start from, which runs as it is."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.output import JsonFlag, print_json, results
from autotune.errors import DiskError, UsageError

_FILES = ("study.toml", "task.py")
_NAME = "my-study"  # stands in the template where the study's name goes


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make; its name is the study's.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a commented study.toml and task.py that run as they are, to be changed into your own study."""
    name = folder.resolve().name
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
        raise UsageError(f"{folder}: {name!r} cannot name a study; use letters, digits, '.', '_' and '-'")
    taken = [file for file in _FILES if os.path.lexists(folder / file)]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; name a folder")
    if taken:
        raise UsageError(f"{folder}: {taken[0]} is there already and was not touched; name another folder")
    template = resources.files("autotune.cli") / "template"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in _FILES:
            _write(folder / file, (template / file).read_text(encoding="utf-8").replace(_NAME, name))
    except OSError as error:
        raise DiskError(f"{folder}: cannot be written ({error.strerror}); choose another place") from error
    if as_json:
        print_json({"folder": str(folder), "files": list(_FILES)})
        return
    results().print(
        f"wrote {folder / _FILES[0]} and {folder / _FILES[1]}; they run as they are:\n"
        f"  autotune check {shlex.quote(str(folder))}\n  autotune run {shlex.quote(str(folder))}",
        markup=False,
        soft_wrap=True,
    )


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        Path(draft).chmod(0o644)
        Path(draft).rename(file)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
