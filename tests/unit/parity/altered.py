"""A target that really computes something else: a real device that gets another file than it is asked to run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.parity.check import Feed, check_parity
from autotune.parity.report import ParityReport, TargetParity
from hwprofiles.device import Device

Change = Callable[[onnx.ModelProto], None]


class Altered:
    """Runs every model after `change` was made to it, as a device with a faulty kernel or a flipped bit would."""

    def __init__(self, device: Device, change: Change) -> None:
        self.device, self.change = device, change

    def infer(self, model: Path, batches: Iterable[Feed], *, workers: int = 1) -> Generator[dict[str, np.ndarray]]:
        proto = onnx.load(model)
        self.change(proto)
        other = model.with_name("altered.onnx")
        other.write_bytes(proto.SerializeToString())
        try:
            yield from self.device.infer(other, batches, workers=workers)
        finally:
            other.unlink()


class Corrupted(Altered):
    """Runs no model: its files are cut off."""

    def infer(self, model: Path, batches: Iterable[Feed], *, workers: int = 1) -> Generator[dict[str, np.ndarray]]:
        other = model.with_name("corrupted.onnx")
        other.write_bytes(model.read_bytes()[:-40])
        try:
            yield from self.device.infer(other, batches, workers=workers)
        finally:
            other.unlink()


def scaled(weight: str, factor: float) -> Change:
    """One weight of the model times `factor`."""

    def change(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name == weight:
                array = (numpy_helper.to_array(tensor) * np.float32(factor)).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(array, weight))
                return
        raise AssertionError(f"no weight {weight}")

    return change


def compare(
    model: onnx.ModelProto | bytes, feeds: list[Any], devices: dict[str, Any], folder: Path, **options: Any
) -> ParityReport:
    """The report; it must survive being stored."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    report = check_parity(path, feeds, devices, folder=folder, **options)
    assert ParityReport.model_validate_json(report.model_dump_json()) == report
    assert sorted(p.name for p in folder.iterdir()) == ["model.onnx"]  # no instrumented copy is left
    return report


def one(report: ParityReport, name: str) -> TargetParity:
    return next(target for target in report.targets if target.target == name)
