"""What every runtime's device side must do, tried on the ones that are installed here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hwprofiles.agent
from hwprofiles.agent.archive import build_agent
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure
from hwprofiles.measurement import Kernel
from hwprofiles.registry import RUNTIMES, load_plugin
from hwprofiles.runtimes.protocol import Runtime
from hwprofiles.target import Target

INSTALLED = {"onnxruntime": Target(name="here", options={"quiet_wait": 0})}
REGISTERED = sorted(entry.name for entry in metadata.entry_points(group=RUNTIMES))

pytestmark = pytest.mark.parametrize("name", REGISTERED)


@pytest.fixture
def runtime(name: str) -> Runtime:
    return load_plugin(RUNTIMES, name, target="here")


@pytest.fixture
def device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # not to queue behind a real study on this machine
    if name not in INSTALLED:
        pytest.skip(f"{name} is not installed here")
    with open_device(INSTALLED[name], work=tmp_path) as opened:
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x @ w), x of shape [batch, 8]."""
    weights = numpy_helper.from_array(np.arange(32, dtype=np.float32).reshape(8, 4) - 16, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weights],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_computes(device: Device, model: Path) -> None:
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    weights = np.arange(32, dtype=np.float32).reshape(8, 4) - 16
    (out,) = device.infer(model, [{"x": x}])
    np.testing.assert_allclose(out["y"], np.maximum(x @ weights, 0), rtol=1e-5)


def test_names_the_kernels_that_ran(device: Device, model: Path) -> None:
    kernels = device.kernels(model, {"x": np.ones((2, 8), np.float32)})
    assert all(isinstance(kernel, Kernel) and kernel.provider for kernel in kernels)
    assert any("float[2,8]" in kernel.inputs for kernel in kernels)
    assert all(kernel.seconds >= 0 for kernel in kernels) and sum(k.seconds for k in kernels) > 0


def test_refuses_what_is_no_model(device: Device, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07garbage")
    with pytest.raises(DeviceFailure) as raised:
        list(device.infer(broken, [{"x": np.ones(1, np.float32)}]))
    assert raised.value.failure.kind == "bad_model"


def test_fingerprint_identifies_the_runtime(device: Device, name: str) -> None:
    found = device.fingerprint
    assert (found.runtime, found.provider, found.threads) == (name, device.target.provider, 1)
    assert found.runtime_version[0].isdigit() and found.cores >= 1 and found.memory_total > 1 << 28
    other = found.model_copy(update={"boot_id": "other", "environment": {}})
    assert other.key == found.key
    assert found.model_copy(update={"threads": 2}).key != found.key


def test_device_side_is_old_enough_python(runtime: Runtime, name: str) -> None:
    """What travels must parse on Python 3.9 and import nothing of ours but what travels with it."""
    folder = Path(hwprofiles.agent.__file__).parent
    ours = {f"hwprofiles.agent.{n}" for n in ("frames", "probe", "timing", "cache", "program")}
    for source in [runtime.backend(), *((folder / f"{m.rpartition('.')[2]}.py").read_text() for m in ours)]:
        tree = ast.parse(source, feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hwprofiles"):
                names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
                assert names & ours, f"{node.module} does not travel"


def test_archive_is_reproducible(runtime: Runtime, name: str) -> None:
    assert build_agent(runtime.backend()) == build_agent(runtime.backend())


def test_host_side_does_not_import_the_runtime(name: str) -> None:
    code = f"import sys, hwprofiles.device, hwprofiles.runtimes.{name}; sys.exit('{name}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
