"""`autotune measure`: what does a model cost on a target, and against another one? Needs no study."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.output import JsonFlag, print_json, results, say
from autotune.errors import DataError
from autotune.keys import format_amount, parse_key
from hwprofiles.errors import DeviceFailure

if TYPE_CHECKING:
    import numpy as np

    from hwprofiles.measurement import Estimate, Latency, Measurement


def measure(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to measure.")],
    target: Annotated[str, typer.Option("--target", metavar="T", help="Where to measure.")] = "local",
    against: Annotated[
        Path | None, typer.Option("--against", metavar="OTHER.onnx", help="Time it in pairs with this model.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="NAME=1,3,48,320", help="Shape of an input with dynamic axes; repeatable."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=0.1, help="Longest time for the timed pairs.")
    ] = 60.0,
    as_json: JsonFlag = False,
) -> None:
    """Measure latency and memory of an ONNX file on a target; inputs are random, of the model's declared
    shapes.
    """
    from autotune.cli.inputs import make_inputs
    from hwprofiles.device import open_device
    from hwprofiles.registry import find_target
    from hwprofiles.scenario import SEARCH

    inputs = make_inputs(model, shape or [], say=say)
    if against is not None:
        _check_same_inputs(model, inputs, against, make_inputs(against, shape or [], say=say))
    scenario = SEARCH.model_copy(update={"max_seconds": seconds})
    found = find_target(target)
    say(f"measuring on {found.name}; this takes up to {seconds:.0f} s and some for warming up")
    with (
        tempfile.TemporaryDirectory(prefix="autotune-measure-") as work,
        open_device(found, work=Path(work)) as device,
    ):
        measurement = device.measure(model, [inputs], baseline=against, scenario=scenario)
    _raise_failure(model, measurement)
    if as_json:
        print_json(measurement)
    else:
        _print(measurement, model, against)


def _check_same_inputs(
    model: Path, inputs: Mapping[str, np.ndarray], against: Path, others: Mapping[str, np.ndarray]
) -> None:
    """Both are timed on the same arrays."""
    mine = {name: (array.shape, str(array.dtype)) for name, array in inputs.items()}
    theirs = {name: (array.shape, str(array.dtype)) for name, array in others.items()}
    if mine != theirs:
        raise DataError(f"{model} takes {mine} but {against} takes {theirs}; they must take the same inputs")


def _raise_failure(model: Path, measurement: Measurement) -> None:
    failure = measurement.failure
    if failure is None:
        return
    raise DeviceFailure(failure.model_copy(update={"message": f"{model} on {measurement.target}: {failure.message}"}))


def _print(measurement: Measurement, model: Path, against: Path | None) -> None:
    console = results()
    fingerprint = measurement.fingerprint
    console.print(
        f"{measurement.target}: {fingerprint.cpu_model}, {fingerprint.threads} of {fingerprint.cores} cores, "
        f"{fingerprint.runtime} {fingerprint.runtime_version}, {fingerprint.provider} ({measurement.provenance})",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    for name, latency in ((model, measurement.latency), (against, measurement.baseline_latency)):
        if latency is not None:
            console.print(f"{name}: {_latency(latency)}", markup=False, soft_wrap=True)
    if measurement.ratio is not None:
        pairs = f"{measurement.ratio.pairs} pairs"
        console.print(
            f"time ratio: {_estimate(measurement.ratio.estimate, 'latency_ratio@t')} from {pairs}",
            markup=False,
        )
    if measurement.memory is not None:
        key = parse_key("memory_peak@t")
        peak, loaded = (format_amount(b, key) for b in (measurement.memory.peak, measurement.memory.load_peak))
        console.print(f"memory: {peak} at its peak beyond the runtime's own ({loaded} for the process when loaded)")
    console.print(f"quality: {', '.join(measurement.quality)}")


def _latency(latency: Latency) -> str:
    tails = [(name, value) for name, value in (("p90", latency.p90), ("p99", latency.p99)) if value is not None]
    key = parse_key("latency_p50@t")
    text = f"median {_estimate(latency.median, 'latency_p50@t')}"
    return text + "".join(f", {name} {format_amount(value, key)}" for name, value in tails)


def _estimate(estimate: Estimate, key: str) -> str:
    from autotune.api.tables import value_text
    from autotune.trial import Value

    return value_text(Value(**estimate.model_dump()), parse_key(key))
