"""`autotune measure`: what does a model cost on a target, and against another one? Needs no study."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.output import JsonFlag, print_json, results, say
from autotune.cli.setting import (
    BatchOption,
    EnergyOption,
    FolderOption,
    InputsOption,
    RunnerOption,
    ScenarioOption,
    SecondsOption,
    Setting,
    ShapeOption,
    TargetsOption,
    read_setting,
)
from hwprofiles.errors import DeviceFailure, HardwareError

if TYPE_CHECKING:
    from hwprofiles.measurement import Measurement
    from hwprofiles.target import Target


def measure(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to measure.")],
    target: TargetsOption = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="OTHER.onnx", help="Time it in pairs with this model.")
    ] = None,
    scenario: ScenarioOption = "search",
    shape: ShapeOption = None,
    batch: BatchOption = None,
    seconds: SecondsOption = None,
    energy: EnergyOption = None,
    inputs: InputsOption = None,
    runner: RunnerOption = None,
    folder: FolderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure latency, memory and energy of an ONNX file on one or more targets; inputs are random, of the shapes
    that the model declares or that you give, or samples of your own.
    """
    from autotune.cli.measured import print_measurement

    models = [model] if against is None else [model, against]
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
    found: list[Measurement] = []
    errors: list[HardwareError] = []
    for one in setting.targets:
        try:
            record = _measure(one, model, against, setting)
        except HardwareError as error:
            if len(setting.targets) == 1:
                raise
            say(f"{one.name}: {error}")  # the other targets may be there
            errors.append(error)
            continue
        found.append(record)
        if not as_json:
            print_measurement(results(), record, model, against)
    if as_json and found:
        several = {"measurements": [record.model_dump(mode="json") for record in found]}
        print_json(found[0] if len(setting.targets) == 1 else several)
    if errors:
        raise errors[0]


def _measure(target: Target, model: Path, against: Path | None, setting: Setting) -> Measurement:
    """Raises `DeviceFailure` for a model that does not run there, or that answers NaN."""
    from hwprofiles.comparison.answers import nan_failure, with_file_names
    from hwprofiles.device import open_device

    scenario = setting.scenario
    longest = scenario.max_seconds * max(1, len(scenario.shapes))
    say(f"measuring on {target.name}; this takes up to {longest:.0f} s and some for warming up")
    names = {_digest(path): str(path) for path in (model, against) if path is not None}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="autotune-measure-") as work,
            open_device(target, work=Path(work)) as device,
        ):
            failure = nan_failure(device, model, setting.inputs)
            if failure is not None:
                raise DeviceFailure(failure)
            record = device.measure(model, setting.inputs, baseline=against, scenario=scenario)
            if record.failure is not None:
                raise DeviceFailure(record.failure)
            return record
    except DeviceFailure as error:
        told = with_file_names(error.failure, names)
        message = told.message if str(model) in told.message else f"{model}: {told.message}"
        raise DeviceFailure(told.model_copy(update={"message": f"{message} (on {target.name})"})) from error


def _digest(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
