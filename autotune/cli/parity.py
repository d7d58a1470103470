"""`autotune parity`: does a model answer the same on every target, and where does it begin to differ?"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.output import JsonFlag, StoreOption, messages, print_json, results, say, shown
from autotune.cli.setting import FolderOption
from autotune.errors import DataError, UsageError
from hwprofiles.errors import BadProfile, DeviceFailure, Failure, HardwareError

if TYPE_CHECKING:
    import numpy as np

    from autotune.parity.report import ParityReport, Tolerance
    from autotune.trial import Trial
    from hwprofiles.device import Device
    from hwprofiles.target import Target

_SAMPLES = 16
_TRIAL = re.compile(r"(?P<study>.+):(?P<trial>[0-9]+)")
DISAGREE, INCONCLUSIVE = 1, 3


def parity(
    model: Annotated[
        str, typer.Argument(metavar="MODEL.onnx|STUDY:TRIAL", help="A file, or what a trial of a study has built.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "--targets",
            metavar="T",
            help="Where to compare; `--targets A B` or repeated. Default: the study's targets, or local.",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            metavar="FILE.npz",
            help="Arrays named like the model's inputs, with the samples along their first axis. Default: the study's "
            "held-out data, or random numbers.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", min=1, help=f"At most this many; default {_SAMPLES}.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME=1,3,48,320",
            help="Shape of an input with dynamic axes; repeatable. For random data.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", metavar="D", min=1e-12, help="Relative distance from which on outputs count as different."
        ),
    ] = 1e-3,
    agreement: Annotated[
        float, typer.Option("--agreement", metavar="P", min=0, max=1, help="Share of equal classes that is enough.")
    ] = 1.0,
    layer_tolerance: Annotated[
        float, typer.Option("--layer-tolerance", metavar="D", min=1e-12, help="The same for one layer in float32.")
    ] = 1e-4,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="Judge every output by its distance, also those that look like classes.")
    ] = False,
    folder: FolderOption = None,
    store: StoreOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write a page with a chart of the layers, too."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the same inputs on each target and on a float64 reference: do the answers agree, how far are they apart, and
    which layer is the first to differ?

    Outputs with class scores (matrices, or probabilities in the last axis) are judged by the largest entry of each
    row, other numbers by their relative L2 distance, integers by equality.

    Ends with 0 if all answers agree, with 1 if a target disagrees, with 3 if none does but a target could not be
    compared.
    """
    from autotune.cli.agreement import print_parity
    from autotune.parity.report import Tolerance

    given = _read(model, target or [], inputs, samples, shape or [], folder or [], store)
    if output is not None and output.is_dir():
        raise UsageError(f"--output {output} is a folder; give the name of a file, e.g. {output / 'parity.html'}")
    limits = Tolerance(agreement=agreement, distance=tolerance, layer=layer_tolerance)
    report = _check(given, limits, numbers=numbers)
    if not Path(model).exists():  # of a trial, whose file is called by its digest
        report = report.model_copy(update={"name": model})
    if as_json:
        print_json(report)
    else:
        print_parity(results(), report)
    if output is not None:  # last: a full disk must not cost what was found
        from autotune import plugins
        from autotune.report import GROUP

        plugins.load(GROUP, "parity")(report, output)
        say(f"page: {shown(output)}")
    compared = [one for one in report.targets if one.failure is None]
    if not compared:
        failure = next(one.failure for one in report.targets if one.failure is not None)
        raise DeviceFailure(failure.model_copy(update={"message": f"{model} was compared nowhere: {failure.message}"}))
    if report.agrees is not True:
        raise typer.Exit(DISAGREE if report.agrees is False else INCONCLUSIVE)


@dataclass(frozen=True)
class _Given:
    """What is compared on what."""

    model: Path
    feeds: Sequence[Mapping[str, np.ndarray]]
    targets: Sequence[Target]


def _check(given: _Given, tolerance: Tolerance, *, numbers: bool) -> ParityReport:
    from autotune.api.watch import ProgressView
    from autotune.parity.check import check_parity
    from autotune.search.progress import Progress
    from hwprofiles.device import open_device

    with (
        tempfile.TemporaryDirectory(prefix="autotune-parity-") as work,
        ExitStack() as stack,
        ProgressView(messages()) as view,
    ):
        devices: dict[str, Device] = {}
        missing: dict[str, Failure] = {}
        for target in given.targets:
            view.update(Progress("parity", f"opening {target.name}"))
            place = Path(work) / target.name
            place.mkdir()
            try:
                devices[target.name] = stack.enter_context(open_device(target, work=place))
            except BadProfile:
                raise
            except HardwareError as error:
                missing[target.name] = Failure(kind="unavailable", stage="open", message=str(error))
        scratch = Path(work) / "exposed"
        scratch.mkdir()
        return check_parity(
            given.model,
            given.feeds,
            devices,
            folder=scratch,
            tolerance=tolerance,
            missing=missing,
            numbers=numbers,
            watch=lambda message: view.update(Progress("parity", message)),
        )


def _read(
    model: str, targets: Sequence[str], file: Path | None, samples: int | None, shapes: list[str],
    folders: Sequence[Path], store: str | None,
) -> _Given:  # fmt: skip
    """Everything that was typed, checked before anything is started."""
    from hwprofiles.registry import find_target

    if len(set(targets)) < len(targets):
        raise UsageError(f"--targets {' '.join(targets)}: one is named twice; name each once")
    if file is not None and shapes:
        raise UsageError("--inputs has shapes of its own; leave --shape out")
    match = None if Path(model).exists() else _TRIAL.fullmatch(model)
    feeds: Sequence[Mapping[str, np.ndarray]]
    if match is None:
        path = Path(model)
        feeds = [] if file is not None else _random(path, shapes, samples or _SAMPLES)
    else:
        path, feeds, targets, folders = _from_study(match["study"], match["trial"], targets, folders, store, file)
    if file is not None:
        from autotune.cli.samples import read_samples

        feeds = read_samples(path, file)
    found = [find_target(name, folders=folders) for name in targets or ["local"]]
    return _Given(path, feeds[: samples or _SAMPLES], found)


def _from_study(
    study: str, trial: str, targets: Sequence[str], folders: Sequence[Path], store: str | None, file: Path | None
) -> tuple[Path, list[Mapping[str, np.ndarray]], Sequence[str], Sequence[Path]]:
    """(artifact, held-out inputs, targets, folders with profiles) of a trial."""
    from autotune.cli.sources import open_recorded, parse_trial
    from autotune.config import load_study, load_workload

    config, opened = open_recorded(study, store)
    with opened:
        found = opened.trial(parse_trial(trial))
        if found.artifact is None:
            raise DataError(f"{study}:{trial} was never built; choose another trial of `autotune front {study}`")
        names = _of_one_artifact(found, targets, config.targets)
        artifact = found.artifact_for(names[0]) or found.artifact
        path = opened.verify_artifact(artifact.digest)
    loaded = load_study(study)
    feeds: list[Mapping[str, np.ndarray]] = []
    if file is None:
        workload = load_workload(loaded, say=say)
        feeds = [dict(sample.inputs) for sample in workload.heldout.samples]
    return path, feeds, names, [*folders, loaded.folder]


def _of_one_artifact(trial: Trial, asked: Sequence[str], targets: Sequence[str]) -> Sequence[str]:
    """The targets to compare: those asked for, or those of the study that run what the first one does.

    Raises `UsageError` where targets with artifacts in different dialects are asked for.
    """
    known = [name for name in asked or targets if name in targets]
    first = trial.artifact_for(known[0]) if known else trial.artifact
    apart = [name for name in known if trial.artifact_for(name) != first]
    if apart and asked:
        raise UsageError(
            f"--targets: {known[0]} and {apart[0]} run different artifacts of trial {trial.number}, each in its own "
            "dialect; name targets of one of them (`autotune show` has how far they lie apart)"
        )
    return [name for name in asked or targets if name not in apart]


def _random(model: Path, shapes: list[str], count: int) -> list[Mapping[str, np.ndarray]]:
    """`count` samples of random numbers; integers, whose meaning nobody knows, are ones in all of them."""
    import numpy as np

    from autotune.cli.inputs import make_inputs

    first = make_inputs(model, shapes, say=say)
    varies = any(array.dtype.kind == "f" for array in first.values())
    made: list[Mapping[str, np.ndarray]] = [first]
    for seed in range(1, count if varies else 1):
        rng = np.random.default_rng(seed)
        made.append(
            {n: rng.standard_normal(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in first.items()}
        )
    return made
