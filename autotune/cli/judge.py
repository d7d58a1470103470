"""`autotune judge`: is a compressed model as good as its original, slice by slice? Needs no study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from autotune.cli.output import JsonFlag, print_json, results, say, shown
from autotune.cli.setting import FolderOption
from autotune.errors import DataError, UsageError
from autotune.keys import WORST, MetricKey, parse_amount, parse_key

if TYPE_CHECKING:
    from autotune.config import LoadedStudy
    from autotune.judge.models import ModelJudgement

FAILS, UNDECIDED = 1, 3


def judge(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL.onnx", help="The model as it was.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE.onnx", help="The model to judge; any tool made it.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE.py[:FUNCTION]",
            help="Your code, which returns an autotune.Workload: samples with labels, decode, metric, slices. Default "
            "function: workload.",
        ),
    ],
    target: Annotated[str, typer.Option("--target", metavar="T", help="Where both answer.")] = "local",
    limit: Annotated[
        str, typer.Option("--limit", metavar="1pt", help="The largest drop of any slice that has none of its own.")
    ] = "1pt",
    largest: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="drop/SLICE=2pt", help="The largest drop of one slice; repeatable."),
    ] = None,
    which: Annotated[
        Literal["heldout", "search", "both"], typer.Option("--set", help="Which of the workload's samples.")
    ] = "heldout",
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slices", metavar="TEXT", help="Instead of the workload's, e.g. 'font=serif & length<8'; repeatable."
        ),
    ] = None,
    floor: Annotated[
        int, typer.Option("--floor", metavar="N", min=1, help="Samples that a slice needs to pass.")
    ] = 200,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Samples per inference.")] = 1,
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="Also judge the original against itself, run another way.")
    ] = True,
    among: Annotated[
        int,
        typer.Option(
            "--among",
            metavar="N",
            min=1,
            help="Of how many candidates, judged on these data, one is to be chosen; the error is divided by N.",
        ),
    ] = 1,
    allow_undecided: Annotated[
        bool, typer.Option("--allow-undecided", help="End with 0 where the data do not decide.")
    ] = False,
    folder: FolderOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a page with the table and charts, too.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Judge a compressed model against its original on the same samples, slice by slice: drops with intervals, flips,
    divergence, confidence, and what the data can say at all.

    Ends with 0 if every slice that can be judged keeps its limit for certain, with 1 if one fails, with 3 if the data
    do not decide (0 with --allow-undecided): a gate for continuous integration. A slice fails when its loss is
    certainly above the limit, or when it certainly loses and what was measured is more than half of the limit. A slice
    of fewer samples than --floor cannot pass: it fails where its loss is certain all the same, does not decide (3)
    where you asked for it by name, by --slices or with a limit of its own, and is named as not judged otherwise.
    """
    from autotune.cli.judged import as_data, print_judgement
    from autotune.config import JudgeTable
    from autotune.config.task import call_task
    from autotune.judge.models import judge_models

    overall, limits = _limits(limit, largest or [])
    table = JudgeTable(limit=overall, floor=floor, batch=batch, noise=noise)
    loaded = _task(data)
    workload = call_task(loaded, say=say)  # what judging needs of it is checked by whoever judges
    found = judge_models(
        original,
        candidate,
        workload,
        target=target,
        table=table,
        limits=limits,
        data=which,
        declarations=slices,
        folders=[*(folder or []), loaded.folder],
        share=1 / among,
        say=say,
    )
    if as_json:
        print_json(as_data(found))
    else:
        print_judgement(results(), found)
    if output is not None:  # last: a full disk must not cost what was found
        _write_page(found, output)
        say(f"page: {shown(output)}")
    code = {"pass": 0, "fail": FAILS, "undecided": 0 if allow_undecided else UNDECIDED}[found.verdict]
    if code:
        raise typer.Exit(code)


def _limits(limit: str, words: list[str]) -> tuple[float, dict[str, float]]:
    """The limit for all, and those of single slices. Raises `UsageError`."""
    from autotune.config.tables import LEAST_DROP

    overall = parse_amount(limit, MetricKey("drop"))
    found: dict[str, float] = {}
    for word in words:
        text, equals, amount = word.rpartition("=")
        key = parse_key(text) if equals else None
        if key is None or key.name != "drop" or key.target is not None:
            raise UsageError(f"--max {word!r}: write drop/SLICE=AMOUNT, e.g. --max drop/night=2pt")
        value = parse_amount(amount, key)
        if key.slice == WORST:
            overall = value
        else:
            found[key.slice or "all"] = value
    for name, value in (("--limit", overall), *((f"--max drop/{name}", value) for name, value in found.items())):
        if not LEAST_DROP <= value < 1:
            raise UsageError(
                f"{name}: a limit must be at least {100 * LEAST_DROP:g} and below 100 points, not {100 * value:g}; "
                "e.g. 1pt"
            )
    return overall, found


def _task(text: str) -> LoadedStudy:
    """What `call_task` wants, for a file outside of any study. Raises `DataError`."""
    from autotune.config import LoadedStudy, StudyConfig, WorkloadTable
    from autotune.config.source import Source

    name, _, function = text.rpartition(":")
    if not name.endswith(".py"):
        name, function = text, "workload"
    file = Path(name)
    if not file.is_file():
        raise DataError(f"--data {text}: there is no file {file}; give FILE.py:FUNCTION that returns a Workload")
    config = StudyConfig(name="judge", workload=WorkloadTable(task=f"{file.name}:{function}"))
    return LoadedStudy(config, file.absolute().parent, Source(Path("--data"), ""))


def _write_page(judgement: ModelJudgement, output: Path) -> None:
    from autotune import plugins
    from autotune.report import GROUP

    plugins.load(GROUP, "judgement")(judgement, output)
