"""ONNX Runtime for aarch64 under qemu computes what it computes here. Its times are never looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from hwprofiles.device import Device, open_device
from hwprofiles.errors import BadProfile
from hwprofiles.registry import find_target
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target
from tests.unit import zoo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def aarch64(emulated: Target, locks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with open_device(emulated, work=tmp_path_factory.mktemp("aarch64")) as device:
        yield device


@pytest.fixture(scope="module")
def here(locks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with open_device(find_target("local"), work=tmp_path_factory.mktemp("here")) as device:
        yield device


def test_is_an_aarch64_with_dot_products(aarch64: Device) -> None:
    found = aarch64.fingerprint
    assert found.machine == "aarch64" and "asimddp" in found.isa
    assert "CPUExecutionProvider" in found.providers


def test_floats_agree_within_rounding(aarch64: Device, here: Device, tmp_path: Path) -> None:
    path = _saved(zoo.conv_residual(), tmp_path)
    feeds = [zoo.feeds(onnx.load(path), seed=seed) for seed in range(4)]
    for theirs, ours in zip(aarch64.infer(path, feeds), here.infer(path, feeds), strict=True):
        assert theirs.keys() == ours.keys()
        for name, expected in ours.items():
            assert np.abs(expected).max() > 0
            np.testing.assert_allclose(theirs[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_quantised_integers_are_equal(aarch64: Device, here: Device, tmp_path: Path) -> None:
    path = _saved(_int8_cnn(), tmp_path)
    feeds = [zoo.feeds(onnx.load(path), seed=seed) for seed in range(4)]
    kernels = {kernel.op for kernel in aarch64.kernels(path, feeds[0])}
    assert "QLinearConv" in kernels, kernels  # integers were really computed, not floats between the Q and DQ
    for theirs, ours in zip(aarch64.infer(path, feeds), here.infer(path, feeds), strict=True):
        for name, expected in ours.items():
            assert len(np.unique(expected)) > 10
            assert np.array_equal(theirs[name], expected)


def test_its_measurements_are_marked_as_emulated(aarch64: Device, tmp_path: Path) -> None:
    path = _saved(zoo.mlp(), tmp_path)
    short = Scenario(
        warmup_seconds=0, warmup_iterations=3, block_seconds=0.001, min_pairs=3, max_pairs=3, generation_pairs=3
    )
    found = aarch64.measure(path, [zoo.feeds(onnx.load(path))], scenario=short)
    assert found.failure is None and found.provenance == "emulated"


def test_it_is_never_taken_for_hardware(aarch64: Device, emulated: Target, locks: Path, tmp_path: Path) -> None:
    if not Path("/proc/sys/kernel/arch").exists():
        pytest.skip("a kernel before Linux 6.1 does not say what it is made for")
    assert "aarch64" in str(aarch64.fingerprint.environment["emulator"])
    with pytest.raises(BadProfile, match=r'it is emulated: .* set provenance = "emulated"'):
        open_device(emulated.model_copy(update={"provenance": "hardware"}), work=tmp_path / "work")


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def _int8_cnn() -> onnx.ModelProto:
    """Two quantised convolutions as Q/DQ pairs: symmetric, scales that make values of many steps."""
    constants: dict[str, np.ndarray] = {"zero": np.int8(0)}
    nodes: list[onnx.NodeProto] = []
    for name, scale in (("x", 0.02), ("w1", 0.004), ("h", 0.03), ("w2", 0.004), ("y", 0.05)):
        constants[f"{name}_scale"] = np.float32(scale)
    for name, shape in (("w1", (16, 3, 3, 3)), ("w2", (32, 16, 3, 3))):
        whole = np.round(zoo.weight(*shape) / constants[f"{name}_scale"])
        constants[f"{name}_q"] = np.clip(whole, -127, 127).astype(np.int8)

    def pair(value: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [value, f"{value}_scale", "zero"], [f"{value}_int"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{value}_int", f"{value}_scale", "zero"], [f"{value}_dq"]))
        return f"{value}_dq"

    def convolve(value: str, weights: str, out: str) -> None:
        nodes.append(helper.make_node("DequantizeLinear", [f"{weights}_q", f"{weights}_scale", "zero"], [weights]))
        nodes.append(helper.make_node("Conv", [pair(value), weights], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))

    convolve("x", "w1", "h")
    convolve("h", "w2", "y")
    pair("y")
    return zoo.model_of(nodes, [zoo.floats("x", 1, 3, 24, 24)], ["y_dq"], constants)
