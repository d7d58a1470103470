"""What a target runs is found out once, shared by all studies, and never remembered when it was not an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from autotune.compress import capabilities
from autotune.compress.dialects.ort_cpu import OrtCpu
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure, Failure, FailureKind
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Kernel
from hwprofiles.target import Target


class Counting:
    """A real device that counts how often it is asked, and may fail or pretend that a kernel ran elsewhere."""

    def __init__(self, device: Device, fail: FailureKind | None = None, elsewhere: str = "") -> None:
        self.asked = 0
        self._device = device
        self._fail = fail
        self._elsewhere = elsewhere

    @property
    def fingerprint(self) -> Fingerprint:
        return self._device.fingerprint

    def kernels(self, model: Path, inputs: Mapping[str, np.ndarray], *, runs: int = 2) -> tuple[Kernel, ...]:
        self.asked += 1
        if self._fail is not None:
            raise DeviceFailure(Failure(kind=self._fail, stage="kernels", message=f"it was a {self._fail}"))
        found = self._device.kernels(model, inputs, runs=runs)
        return tuple(
            kernel.model_copy(update={"provider": "OtherExecutionProvider"}) if kernel.op == self._elsewhere else kernel
            for kernel in found
        )


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with open_device(Target(name="here"), work=tmp_path / "work") as opened:
        yield opened


def probe(device: Counting, folder: Path, key: str = "") -> capabilities.Probed:
    return capabilities.probe(device, OrtCpu(), key or device.fingerprint.key, folder)


def test_is_found_out_once_for_all_studies(device: Device, tmp_path: Path) -> None:
    first, second = Counting(device), Counting(device)
    found = probe(first, tmp_path / "one")
    assert found.supports("MatMul", "int8-static") and not found.supports("Gather", "int8-static")
    assert found.kernels["MatMul float16"] == "MatMul" and "Gather int8-static" in found.refused
    assert not {name for name in found.kernels if name in found.refused}
    assert probe(second, tmp_path / "other study") == found
    assert first.asked > 0 and second.asked == 0
    assert list((tmp_path / "one").iterdir()) == [], "the models of the probe stay nowhere"


def test_another_fingerprint_is_asked_again(device: Device, tmp_path: Path) -> None:
    probe(Counting(device), tmp_path)
    again = Counting(device)
    probe(again, tmp_path, key="0" * 16)
    assert again.asked > 0


@pytest.mark.parametrize(
    "text", ["", "{]", "[]", '{"kernels": [1], "refused": {}}', '{"kernels": {"a": "b"}, "refused": {}}']
)
def test_a_broken_cache_is_made_again(device: Device, tmp_path: Path, text: str) -> None:
    found = probe(Counting(device), tmp_path)
    (file,) = (capabilities.cache_folder() / "capabilities").iterdir()
    file.write_text(text)
    again = Counting(device)
    assert probe(again, tmp_path) == found and again.asked > 0
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("kind", ["timeout", "crash", "disk"])
def test_what_is_no_answer_is_not_remembered(device: Device, tmp_path: Path, kind: FailureKind) -> None:
    found = probe(Counting(device, fail=kind), tmp_path)
    assert not found.runs and f"it was a {kind}" in set(found.refused.values())
    assert probe(Counting(device), tmp_path).runs


def test_a_refusal_is_remembered(device: Device, tmp_path: Path) -> None:
    assert not probe(Counting(device, fail="unsupported"), tmp_path).runs
    assert not probe(Counting(device), tmp_path).runs


def test_a_cache_that_cannot_be_written_is_no_error(device: Device, tmp_path: Path) -> None:
    capabilities.cache_folder().parent.mkdir(parents=True, exist_ok=True)
    capabilities.cache_folder().write_text("a file where the folder should be")
    assert probe(Counting(device), tmp_path).runs


def test_a_layer_that_fell_back_to_another_provider_did_not_run(device: Device, tmp_path: Path) -> None:
    found = probe(Counting(device, elsewhere="QLinearConv"), tmp_path)
    assert found.refused["Conv int8-static"] == "QLinearConv did not run on CPUExecutionProvider"
    assert found.supports("MatMul", "int8-static")
