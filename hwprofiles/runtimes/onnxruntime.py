"""ONNX Runtime, host side. The runtime itself is imported by the agent only."""

from __future__ import annotations

import shlex
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from hwprofiles.target import Target

# Address space that a session needs beyond its resident memory: malloc arenas of its threads, mapped
# libraries.
_SLACK = 2 << 30
_PER_THREAD = 256 << 20

# Provider -> the package that has it. All of them install the module `onnxruntime`.
_PACKAGES = {
    "CPUExecutionProvider": "onnxruntime",
    "CUDAExecutionProvider": "'onnxruntime-gpu[cuda,cudnn]>=1.31,<1.32'",
    "TensorrtExecutionProvider": "'onnxruntime-gpu>=1.31,<1.32'",
    "CoreMLExecutionProvider": "onnxruntime",
}

_TERMUX = "android-termux"  # the label of targets where PyPI's wheels cannot be installed: another C library


class OnnxRuntime:
    """`hwprofiles.runtimes.protocol.Runtime` for ONNX Runtime with the target's execution provider."""

    def backend(self) -> str:
        return resources.files("hwprofiles.runtimes").joinpath("onnxruntime_backend.py").read_text("utf-8")

    def options(self, target: Target) -> dict[str, Any]:
        return {"threads": target.threads, "provider": target.provider}

    def files(self, target: Target) -> dict[str, Path]:
        return {}

    def address_space(self, target: Target) -> int:
        """A memory bomb then fails inside the runtime before it touches a page.

        GPU providers reserve tens of gigabytes of addresses that they never use, so there is no limit for
        them.
        """
        if target.provider != "CPUExecutionProvider":
            return 0
        return target.memory_limit + _SLACK + target.threads * _PER_THREAD

    def install_hint(self, target: Target) -> str:
        package = _PACKAGES.get(target.provider, f"a build of onnxruntime with {target.provider}")
        python = target.python or (sys.executable if target.transport == "local" else "python3")
        command = f"{shlex.quote(python)} -m pip install numpy {package}"
        if _TERMUX in target.label:
            command = "pkg install python-numpy python-onnxruntime"
        host, port = target.options.get("host"), target.options.get("port")
        if target.transport == "ssh" and isinstance(host, str):
            door = f"-p {port} " if port else ""
            command = f"ssh {door}{shlex.quote(host)} {shlex.quote(command) if chr(39) in command else command}"
        if package != "onnxruntime":
            command += " (one environment holds only one onnxruntime: uninstall any other there first)"
        return command
