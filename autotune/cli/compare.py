"""`autotune compare`: which model, on which hardware, and how sure is that? Needs no study."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.output import JsonFlag, messages, print_json, results, say, shown
from autotune.cli.setting import (
    BatchOption,
    EnergyOption,
    FolderOption,
    InputsOption,
    RunnerOption,
    ScenarioOption,
    SecondsOption,
    ShapeOption,
    TargetsOption,
    read_setting,
)
from autotune.errors import DiskError, UsageError, did_you_mean
from hwprofiles.errors import DeviceFailure, TargetUnavailable

if TYPE_CHECKING:
    from autotune.search.progress import Progress
    from hwprofiles.comparison import Comparison, ComparisonProgress

INCONCLUSIVE = 3


def compare(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL.onnx...", help="The models; the others are paired with the first.")
    ],
    target: TargetsOption = None,
    scenario: ScenarioOption = "search",
    shape: ShapeOption = None,
    batch: BatchOption = None,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="T=P", help="What an hour of target T costs, e.g. t4=0.35; repeatable."),
    ] = None,
    currency: Annotated[
        str, typer.Option("--currency", metavar="NAME", help="Of the prices, for the screen, e.g. EUR.")
    ] = "",
    seconds: SecondsOption = None,
    energy: EnergyOption = None,
    inputs: InputsOption = None,
    runner: RunnerOption = None,
    folder: FolderOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a page with table and charts, too.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare models on hardware: latency with intervals, throughput, memory, energy, size and cost; who wins, and
    ties called ties. Inputs are random, of the shapes that the models declare or that you give, or
    samples of your own.

    Ends with 0 if every model was measured on every target, with 3 (inconclusive) if some could not be, after
    printing what was. If nothing was measured, it ends as the first reason says.
    """
    from autotune.api.watch import ProgressView
    from autotune.cli.compared import print_comparison
    from hwprofiles.comparison import compare as measure_all

    setting = read_setting(
        models,
        targets=target or [],
        folders=folder or [],
        scenario=scenario,
        seconds=seconds,
        energy=energy,
        shapes=shape or [],
        batch=batch,
        inputs=inputs,
        runner=runner,
        say=say,
    )
    prices = _prices(price or [], [one.name for one in setting.targets])
    if output is not None:
        _check_writable(output)
    with tempfile.TemporaryDirectory(prefix="autotune-compare-") as work, ProgressView(messages()) as view:
        comparison = measure_all(
            models,
            setting.targets,
            inputs=setting.inputs,
            scenario=setting.scenario,
            prices=prices,
            currency=currency,
            work=Path(work),
            watch=lambda progress: view.update(_progress(progress)),
        )
    _refuse_empty(comparison)
    if as_json:
        print_json(comparison)
    else:
        print_comparison(results(), comparison)
    if output is not None:  # last: a full disk must not cost what was found
        _write_page(comparison, output)
        say(f"page: {shown(output)}")
    if any(row.problem is not None for row in comparison.rows):
        raise typer.Exit(INCONCLUSIVE)


def _prices(words: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """`T=P` words; raises `UsageError`."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, amount = word.rpartition("=")
        if not equals or not name:
            raise UsageError(f"--price {word!r}: write TARGET=PRICE, e.g. --price t4=0.35")
        if name not in targets:
            raise UsageError(f"--price {word!r}: no such target is compared; {did_you_mean(name, targets)}")
        if name in found:
            raise UsageError(f"--price {word!r}: {name!r} has a price already; give one")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"--price {word!r}: {amount!r} is not a positive number, e.g. --price {name}=0.35")
        found[name] = value
    return found


def _progress(told: ComparisonProgress) -> Progress:
    from autotune.api.watch import clock
    from autotune.search.progress import Progress

    unknown = told.at_most and told.done < told.total
    limit = f" (at most {clock(told.seconds_left)} in all)" if unknown else ""
    left = None if unknown or told.done == told.total else told.seconds_left
    return Progress("compare", f"{told.message}{limit}", done=told.done, total=told.total, seconds_left=left)


def _refuse_empty(comparison: Comparison) -> None:
    """Raises the first reason if there is not a single number."""
    if any(row.problem is None for row in comparison.rows):
        return
    for row in comparison.rows:
        if row.measurement is not None and row.measurement.failure is not None:
            failure = row.measurement.failure
            raise DeviceFailure(failure.model_copy(update={"message": f"{row.side}: {failure.message}"}))
    row = comparison.rows[0]
    raise TargetUnavailable(f"nothing could be measured; {row.side}: {row.unavailable}")


def _check_writable(output: Path) -> None:
    """Before minutes of measuring, not after."""
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; give the name of a file, e.g. {output / 'compare.html'}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise DiskError(f"cannot write to {output.parent}: {error.strerror or error}; give another --output") from error


def _write_page(comparison: Comparison, output: Path) -> None:
    from autotune import plugins
    from autotune.report import GROUP

    plugins.load(GROUP, "comparison")(comparison, output)
