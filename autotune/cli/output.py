"""Where output goes: results and JSON to stdout, messages for people to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.markup import escape

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL|FILE",
        help="Where the study is recorded; default autotune-runs/STUDY/store.db.",
    ),
]
AllTargets = Annotated[
    bool,
    typer.Option("--all-targets", help="Refuse to begin without a target, instead of leaving it out (exit code 69)."),
]
StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A ready-made study by name, or a folder with study.toml.")
]

_PIPE_COLUMNS = 120  # width of what is written to a file or pipe


def results() -> Console:
    """The console for results: stdout. Built per call, so that a redirected stdout is honoured."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _columns(), highlight=False)


def messages() -> Console:
    """The console for people: stderr."""
    return Console(file=sys.stderr, width=None if sys.stderr.isatty() else _columns(), highlight=False)


def _columns() -> int:
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else _PIPE_COLUMNS


def say(text: str) -> None:
    """One message for people, without markup."""
    messages().print(escape(text), soft_wrap=True)


def show(renderable: RenderableType) -> None:
    results().print(renderable)


def shown(path: str | Path) -> str:
    """A path for people: relative where it lies under the current folder."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


def print_json(value: Any) -> None:
    """`value` as JSON on stdout. Numbers that JSON does not have become null."""
    sys.stdout.write(json.dumps(_plain(value), indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
