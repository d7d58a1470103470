"""ONNX Runtime on an NVIDIA card with device-bound inputs, host side. Options of the target that count here:

- `cuda_graph` (default true): capture a CUDA graph for each of the inputs, where the model allows it; the measurement
  says whether it did, and why not. False: never.
- `tf32` (default true, as in ONNX Runtime): whether float32 products may be rounded to TF32 on the way in.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from hwprofiles.errors import BadProfile
from hwprofiles.runtimes.installing import apart
from hwprofiles.target import Target

_PLAIN = "hwprofiles.runtimes.onnxruntime_backend"
PROVIDER = "CUDAExecutionProvider"
_PACKAGE = "'onnxruntime-gpu[cuda,cudnn]>=1.31,<1.32'"
_NVML = "'nvidia-ml-py>=13.580,<14'"


class OnnxRuntimeCuda:
    """`hwprofiles.runtimes.protocol.Runtime`: copies to the card and back are no part of the latency."""

    def backend(self) -> str:
        return _source("onnxruntime_cuda_backend.py")

    def modules(self) -> dict[str, str]:
        """The plain runtime's device side, of which this one is a variant."""
        return {_PLAIN: _source("onnxruntime_backend.py")}

    def options(self, target: Target) -> dict[str, Any]:
        return {
            "threads": target.threads,
            "provider": target.provider,
            "cuda_graph": _flag(target, "cuda_graph"),
            "tf32": _flag(target, "tf32"),
        }

    def files(self, target: Target) -> dict[str, Path]:
        return {}

    def address_space(self, target: Target) -> int:
        """No limit: CUDA reserves tens of gigabytes of addresses that it never uses."""
        return 0

    def install_hint(self, target: Target) -> str:
        """For a local target without an interpreter of its own: never into ours, whose onnxruntime would be lost."""
        command = apart(target, "ort-gpu", lambda pip: f"{pip} numpy {_NVML} {_PACKAGE}")
        if target.transport == "local" and target.python is None:
            return f"{command} (one environment holds only one onnxruntime, and ours has another)"
        return f"{command} (one environment holds only one onnxruntime: uninstall any other there first)"


def _flag(target: Target, name: str) -> bool:
    value = target.options.get(name, True)
    if not isinstance(value, bool):
        raise BadProfile(f"target {target.name!r}: options.{name} is {value!r}; write true or false")
    return value


def _source(file: str) -> str:
    return resources.files("hwprofiles.runtimes").joinpath(file).read_text("utf-8")
