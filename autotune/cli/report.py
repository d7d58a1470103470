"""`autotune report`: the study as one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.output import JsonFlag, StoreOption, StudyArgument, print_json, results, shown
from autotune.cli.sources import open_recorded


def report(
    study: StudyArgument,
    store: StoreOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Default: report.html beside the store, with its name where several are.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the report of a recorded study and print its path."""
    from autotune.report import default_path, write_report

    _, opened = open_recorded(study, store)
    with opened:
        path = output if output is not None else default_path(opened)
        write_report(opened, path)
    if as_json:
        print_json({"report": str(path)})
    else:
        results().print(shown(path), markup=False, soft_wrap=True)
