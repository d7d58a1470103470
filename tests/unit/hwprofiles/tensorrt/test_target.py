"""TensorRT targets on a machine that has no card: what is refused, where, and with which words.

Where a test needs a driver that answers, a C compiler makes its library; nothing then runs a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.device import open_device
from hwprofiles.errors import BadProfile, DeviceFailure, TargetUnavailable
from hwprofiles.runtimes.conformance import _MODEL, _QUICK, RuntimeConformance
from hwprofiles.runtimes.protocol import shipped
from hwprofiles.runtimes.tensorrt import TensorRt, TensorRtRtx
from hwprofiles.target import Target
from tests.unit.hwprofiles.test_cuda import DRIVER, driver

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install '.[dev]'")

NO_CARD = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
FEED = {"x": np.ones((2, 8), np.float32)}
# Stands for TensorRT-RTX in the agent, and dies as soon as it is asked to build.
DIES = """
import sys
if sys.argv[0] == "-c":
    import ctypes
    ctypes.string_at(0)
from tensorrt_rtx_bindings import *
__version__ = "1.7.1.116"
"""


def target(kind: str = "tensorrt-rtx", **options: Any) -> Target:
    provider = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[kind]
    return Target(name="card", runtime=kind, provider=provider, options={"quiet_wait": 0, **options})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(_MODEL)
    return path


@pytest.fixture
def with_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that shows a card; there is none behind it."""
    folder = tmp_path / "driver"
    folder.mkdir()
    source = DRIVER.replace("? 9 : 0", "? 8 : 9")  # TensorRT-RTX has kernels for 8.9
    assert source != DRIVER
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver(folder, source=source)))


@NO_CARD
@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_without_a_driver_it_is_one_line_and_no_advice_to_install_what_is_there(kind: str, tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable) as caught:
        open_device(target(kind), work=tmp_path)
    said = str(caught.value)
    assert said.startswith("target 'card': no NVIDIA driver here: libcuda.so.1")
    assert "\n" not in said and "Traceback" not in said
    assert "pip install" not in said if kind == "tensorrt-rtx" else True


@pytest.mark.usefixtures("with_driver")
def test_without_its_library_it_says_what_to_install_and_where_it_comes_from(tmp_path: Path) -> None:
    """Here are TensorRT's bindings, and not its libraries: importing them fails."""
    with pytest.raises(TargetUnavailable) as caught:
        open_device(target("tensorrt"), work=tmp_path)
    said = str(caught.value)
    assert "tensorrt cannot be imported" in said and "\n" not in said and said.count("pip install") == 1
    assert "'tensorrt-cu13>=11.4,<12' --extra-index-url https://pypi.nvidia.com" in said
    assert "the libraries come from NVIDIA's own package index" in said


@pytest.mark.usefixtures("with_driver")
def test_the_fingerprint_names_the_card_and_the_builder_options(tmp_path: Path) -> None:
    with open_device(target(), work=tmp_path) as device, open_device(target(tf32=False), work=tmp_path) as other:
        found = device.fingerprint
        assert (found.runtime, found.provider) == ("tensorrt-rtx", "TensorRT-RTX")
        assert found.accelerator.startswith("NVIDIA H200, 143051 MiB, compute capability 8.9")
        assert found.session == {"arena": "default", "memory_pattern": None, "cuda_graph": True, "transfers": False}
        assert "tf32 False" in other.fingerprint.runtime_build
        assert found.key != other.fingerprint.key


@NO_CARD
def test_a_card_that_rtx_has_no_kernels_for_is_one_line_when_the_target_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a failure of one trial after the other."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver(tmp_path)))
    with pytest.raises(
        TargetUnavailable, match=r"TensorRT-RTX 1\..* has no kernels for compute capability 9\.0"
    ) as caught:
        open_device(target(), work=tmp_path / "work")
    said = str(caught.value)
    assert "use the runtime tensorrt or onnxruntime-cuda" in said and "\n" not in said and "pip install" not in said


@pytest.mark.usefixtures("with_driver")
def test_a_builder_that_dies_costs_one_measurement_and_the_target_goes_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "tensorrt_rtx.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with open_device(target(), work=tmp_path) as device:
        for _ in range(2):
            failure = device.measure(model, [FEED], scenario=_QUICK).failure
            assert failure is not None and (failure.kind, failure.stage) == ("crash", "load")
            assert failure.message == "target 'card': the builder died: SIGSEGV"
            assert device._slots[0]._agent is not None and not device._slots[0]._agent.alive, "a new process goes on"
        with pytest.raises(DeviceFailure, match="the builder died: SIGSEGV"):
            list(device.infer(model, [FEED]))


@pytest.mark.usefixtures("with_driver")
def test_a_model_that_the_parser_refuses_is_the_model_s_failure(tmp_path: Path, model: Path) -> None:
    model.write_bytes(b"\x08\x07garbage")
    with open_device(target(), work=tmp_path) as device:
        failure = device.measure(model, [FEED], scenario=_QUICK).failure
        assert failure is not None and failure.kind == "bad_model" and "\n" not in failure.message
        assert "TensorRT's parser refuses the model" in failure.message


@NO_CARD
@pytest.mark.usefixtures("with_driver")
def test_a_card_that_does_not_answer_after_all_is_a_failure_in_one_line(tmp_path: Path, model: Path) -> None:
    with open_device(target(), work=tmp_path) as device:
        failure = device.measure(model, [FEED], scenario=_QUICK).failure
        assert failure is not None and failure.kind in ("unavailable", "crash") and "\n" not in failure.message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"builder_level": 6}, "options.builder_level is 6; write a whole number from 0 to 5"),
        ({"tactics": 0}, "options.tactics is 0"),
        ({"workspace": "1 GiB"}, "options.workspace is '1 GiB'"),
        ({"aux_streams": True}, "options.aux_streams is True"),
        ({"sparse": 1}, "options.sparse is 1; write true or false"),
        ({"builds": 99}, "options.builds is 99"),
        ({"builder_leval": 3}, "has no option 'builder_leval'; did you mean 'builder_level'?"),
        ({"fast": True}, "has no option 'fast'; known: aux_streams, builder_level, builds"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadProfile, match=r"target 'card'") as caught:
        TensorRt().options(target("tensorrt", **options))
    assert said in str(caught.value)


def test_options_of_another_transport_are_left_to_it() -> None:
    there = Target(name="card", runtime="tensorrt", transport="ssh", options={"host": "h200", "port": 22, "builds": 2})
    assert TensorRt().options(there)["builds"] == 2
    with pytest.raises(BadProfile, match="did you mean 'workspace'"):
        TensorRt().options(there.model_copy(update={"options": {"host": "h200", "workspaces": 1}}))


def test_the_two_are_never_taken_for_each_other() -> None:
    one, two = TensorRt().options(target("tensorrt")), TensorRtRtx().options(target())
    assert (one["runtime"], one["provider"], one["builds"]) == ("tensorrt", "TensorRT", 3)
    assert (two["runtime"], two["provider"], two["builds"]) == ("tensorrt-rtx", "TensorRT-RTX", 1)


def test_a_build_is_ended_before_whoever_waits_for_it_gives_up() -> None:
    assert TensorRt().options(target("tensorrt").model_copy(update={"timeout": 1000.0}))["build_seconds"] == 900.0


def test_install_hints_say_where_it_comes_from() -> None:
    there = Target(name="card", runtime="tensorrt", transport="ssh", options={"host": "h200"})
    assert (
        TensorRt().install_hint(there).startswith("ssh h200 'python3 -m pip install numpy nvidia-ml-py cuda-bindings")
    )
    assert TensorRtRtx().install_hint(target()).endswith("(from PyPI)")
    assert set(shipped(TensorRt())) == {
        f"hwprofiles.runtimes.tensorrt_{name}" for name in ("buffers", "build", "engines", "layers", "opened", "timing")
    }


@pytest.mark.parametrize("runtime", [TensorRt, TensorRtRtx])
class TestHostSide:
    """What of the conformance suite needs no card; the whole of it is in tests/device/gpu."""

    def test_conforms(self, runtime: type[TensorRt]) -> None:
        suite = RuntimeConformance()
        kind = "tensorrt-rtx" if runtime is TensorRtRtx else "tensorrt"
        suite.runtime, suite.target = runtime(), target(kind)  # type: ignore[misc]
        suite.module = kind.replace("-", "_") + "_bindings"  # type: ignore[misc]
        suite.test_host_side_keeps_its_contract()
        suite.test_device_side_is_old_enough_python()
        suite.test_host_side_does_not_import_the_runtime()
