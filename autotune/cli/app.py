"""All commands in one Typer application. Each command's module loads its heavy parts when it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

import autotune
from autotune.cli.check import check
from autotune.cli.compare import compare
from autotune.cli.export import export
from autotune.cli.front import front
from autotune.cli.judge import judge
from autotune.cli.measure import measure
from autotune.cli.new import new
from autotune.cli.parity import parity
from autotune.cli.report import report
from autotune.cli.run import run
from autotune.cli.show import show
from autotune.cli.targets import targets

app = typer.Typer(
    name="autotune",
    help="Compress a model for named hardware: really built, really measured, judged slice by slice.",
    epilog="Exit codes: 0 done, 1 a regression, a disagreement or a bug, 2 usage, 3 nothing feasible or inconclusive, "
    "65 bad data, 69 target unavailable, 74 disk, 75 locked by another run, 124 deadline, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(autotune.__version__)
        raise typer.Exit


def _paragraphs(command: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, as the help wraps lines by itself."""
    text = inspect.getdoc(command) or ""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error; works anywhere.")] = False,
) -> None:
    """Options of every command; `--debug` is taken off the line before it is parsed."""


for command, example in (
    (new, "autotune new my-study && autotune run my-study"),
    (check, "autotune check digits"),
    (run, "autotune run digits --max-size 100kB --max-drop 1pt"),
    (front, "autotune front digits --max size_bytes=100kB --max drop/worst=1pt"),
    (show, "autotune show digits 7"),
    (export, "autotune export digits best ./bundle"),
    (report, "autotune report digits --output report.html"),
    (measure, "autotune measure small.onnx --against original.onnx --target local"),
    (judge, "autotune judge original.onnx small.onnx --data task.py:workload --limit 1pt"),
    (parity, "autotune parity small.onnx --targets local rpi5 --inputs samples.npz"),
    (compare, "autotune compare original.onnx small.onnx --targets local rpi5 --price rpi5=0.02"),
):
    app.command(command.__name__, help=_paragraphs(command), epilog=f"Example: [bold]{example}[/bold]")(command)
app.add_typer(targets, name="targets")
