"""Every built-in runtime passes the conformance suite that ships with the package; and what is theirs alone."""

from __future__ import annotations

import ast
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import hwprofiles.runtimes.reference_runner as reference
from hwprofiles.agent.archive import build_agent
from hwprofiles.device import open_device
from hwprofiles.errors import TargetUnavailable
from hwprofiles.registry import RUNTIMES
from hwprofiles.runtimes.conformance import RuntimeConformance
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.runtimes.protocol import Runtime
from hwprofiles.runtimes.runner import Runner, with_runner
from hwprofiles.target import Target

REFERENCE = Path(reference.__file__)


class TestOnnxRuntime(RuntimeConformance):
    runtime: ClassVar[Runtime] = OnnxRuntime()
    target = Target(name="here")
    opens = staticmethod(open_device)
    module = "onnxruntime"

    def test_kernels_tell_their_shapes(self, tmp_path: Path) -> None:
        with self._open(tmp_path) as device:
            kernels = device.kernels(self._model(tmp_path), {"x": np.ones((2, 8), np.float32)})
        assert any("float[2,8]" in kernel.inputs for kernel in kernels)

    def test_a_provider_that_is_listed_but_runs_nothing_is_refused(self, tmp_path: Path) -> None:
        """The wheel lists AzureExecutionProvider; a session with it runs everything on the CPU and says nothing."""
        with pytest.raises(TargetUnavailable, match="AzureExecutionProvider but ran a small model on CPUExecutionProv"):
            self._open(tmp_path, provider="AzureExecutionProvider").close()

    @pytest.mark.parametrize(
        ("changes", "hint"),
        [
            ({"transport": "ssh", "options": {"host": "pi@pi"}}, "ssh pi@pi python3 -m pip install numpy onnxruntime"),
            (
                {"transport": "ssh", "label": "android-termux", "options": {"host": "phone", "port": 8022}},
                "ssh -p 8022 phone pkg install python-numpy python-onnxruntime",
            ),
            ({"python": "/opt/my env/python"}, "'/opt/my env/python' -m pip install numpy onnxruntime"),
            ({"python": "py", "provider": "CUDAExecutionProvider"}, "py -m pip install numpy 'onnxruntime-gpu[cuda,"),
            ({"python": "py", "provider": "CUDAExecutionProvider"}, "one environment holds only one onnxruntime"),
            ({"python": "py", "provider": "XExecutionProvider"}, "a build of onnxruntime with XExecutionProvider"),
        ],
    )
    def test_install_hint_is_for_where_it_is_missing(self, changes: dict[str, Any], hint: str) -> None:
        assert hint in OnnxRuntime().install_hint(Target(name="there", **changes))


class TestRunner(RuntimeConformance):
    runtime: ClassVar[Runtime] = Runner()
    target = with_runner(Target(name="here", options={"runner_warmup": 0.0}), REFERENCE)
    opens = staticmethod(open_device)

    def test_is_labelled(self) -> None:
        assert self.target.label == "runner reference_runner.py"
        phone = with_runner(Target(name="x", label="android-termux"), Path(reference.__file__).parent / "runner.py")
        assert phone.label == "android-termux, runner runner.py"
        assert with_runner(phone, REFERENCE).label == "android-termux, runner reference_runner.py"

    def test_another_program_is_another_fingerprint(self, tmp_path: Path) -> None:
        other = tmp_path / "other.py"
        other.write_text(REFERENCE.read_text() + "# changed\n")
        with self._open(tmp_path) as one, open_device(with_runner(self.target, other), work=tmp_path) as two:
            assert one.fingerprint.key != two.fingerprint.key


def test_every_registered_runtime_is_made_without_arguments() -> None:
    found = {entry.name: entry.load()() for entry in metadata.entry_points(group=RUNTIMES)}
    assert isinstance(found["onnxruntime"], OnnxRuntime) and isinstance(found["runner"], Runner)


def test_what_travels_is_old_enough_python() -> None:
    """All of the archive parses on Python 3.9 and imports nothing of ours that does not travel with it."""
    import io
    import zipfile

    archive = zipfile.ZipFile(io.BytesIO(build_agent(OnnxRuntime().backend())))
    ours = {name.removesuffix(".py").replace("/", ".") for name in archive.namelist()}
    assert "hwprofiles.agent.processor" in ours
    for name in archive.namelist():
        for node in ast.walk(ast.parse(archive.read(name), feature_version=(3, 9))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hwprofiles"):
                wanted = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
                assert wanted & (ours - {"hwprofiles.agent"}), f"{name}: {node.module} does not travel"


def test_reference_runner_is_old_enough_python() -> None:
    ast.parse(REFERENCE.read_text(), feature_version=(3, 9))
