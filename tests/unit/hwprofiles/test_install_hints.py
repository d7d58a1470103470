"""What each runtime says is to be installed, and where: its own packages, and never into our environment."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.cli import main
from autotune.recover.runtime import TorchCuda
from hwprofiles.device import open_device
from hwprofiles.errors import TargetUnavailable
from hwprofiles.registry import find_target
from hwprofiles.runtimes.onnxruntime_cuda import OnnxRuntimeCuda
from hwprofiles.runtimes.protocol import Runtime
from hwprofiles.runtimes.tensorrt import TensorRt, TensorRtRtx
from hwprofiles.target import Target

# Profile -> its runtime, a package that brings it, and the environment that is advised.
CARDS: dict[str, tuple[Runtime, str, str]] = {
    "h200": (OnnxRuntimeCuda(), "'onnxruntime-gpu[cuda,cudnn]", "ort-gpu"),
    "h200-tensorrt": (TensorRt(), "'tensorrt-cu13>=", "trt"),
    "gpu-rtx": (TensorRtRtx(), "'tensorrt-rtx-cu13-libs>=", "trt-rtx"),
    "gpu-torch": (TorchCuda(), "'torch>=", "torch-gpu"),
}


@pytest.mark.parametrize("name", CARDS)
def test_without_an_interpreter_an_environment_of_its_own_is_made_and_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line is a shell's, and its last command is carried out: the target names that environment then."""
    runtime, package, folder = CARDS[name]
    shipped = find_target(name)
    hint = runtime.install_hint(shipped)
    assert package in hint and sys.executable not in hint and "--force-reinstall" not in hint
    command = hint.rpartition(" (")[0] if name != "gpu-torch" else hint.partition(" (Python")[0]
    assert subprocess.run(["sh", "-n", "-c", command], check=False).returncode == 0
    make, install, *_, point = command.split(" && ")
    assert make == f"python3 -m venv ~/{folder}" and install.startswith(f"~/{folder}/bin/pip install ")
    words = shlex.split(point.replace("$HOME", str(tmp_path)))
    assert words[0] == "autotune" and main(words[1:]) == 0, capsys.readouterr().err
    assert find_target(name) == shipped.model_copy(update={"python": f"{tmp_path}/{folder}/bin/python"})


@pytest.mark.parametrize("name", CARDS)
def test_an_interpreter_without_numpy_is_told_the_runtimes_own_packages(name: str, tmp_path: Path) -> None:
    """With a real Python that has nothing installed."""
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    target = find_target(name).model_copy(update={"python": str(python)})
    with pytest.raises(TargetUnavailable) as raised:
        open_device(target, work=tmp_path / "work").close()
    said = str(raised.value)
    assert "No module named 'numpy'" in said and CARDS[name][1] in said
    assert f"{python} -m pip install" in said and "install numpy onnxruntime" not in said
    assert "-m venv" not in said, "it has an environment of its own"


@pytest.mark.parametrize("name", CARDS)
def test_on_another_machine_it_is_installed_there(name: str) -> None:
    there = Target(name="far", transport="ssh", options={"host": "me@box", "port": 2222}, python="/opt/a b/python")
    words = shlex.split(CARDS[name][0].install_hint(there).partition(" (")[0])
    assert words[:4] == ["ssh", "-p", "2222", "me@box"] and words[4].startswith("'/opt/a b/python' -m pip install ")
    assert CARDS[name][1] in words[4] and len(words) == 5
