"""The runtimes `torch-cuda` and `torch-cpu`, host side: what a user of torch has today, eager or compiled.

The device side brings our interpreter of ONNX along, so that the device needs torch and onnx and nothing of ours.
Options of the target that count here:

- `mode` (default "eager"): "compiled" for `torch.compile`.
- `cuda_graph` (default false): replay a CUDA graph; the measurement says whether one could be captured.
"""

from __future__ import annotations

import shlex
import sys
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from hwprofiles.errors import BadProfile
from hwprofiles.runtimes.installing import apart
from hwprofiles.target import Target

_CUDA_BUILDS = "https://download.pytorch.org/whl/cu130"
_MODES = ("eager", "compiled")
_PARTS = ("constants", "graph", "program", "flat_program", "host_session", "card_session")
# All of `autotune.errors` that the interpreter uses; the rest needs packages that a device need not have.
_ERRORS = '''\
class DataError(Exception):
    """A model that is not what it says, or that cannot be run."""
'''


class TorchCuda:
    """`hwprofiles.runtimes.protocol.Runtime` for torch on an NVIDIA card."""

    name: ClassVar[str] = "torch-cuda"
    device: ClassVar[str] = "cuda"

    def backend(self) -> str:
        return resources.files("autotune.recover").joinpath("runtime_backend.py").read_text("utf-8")

    def modules(self) -> dict[str, str]:
        """Our interpreter of ONNX graphs, and the sessions that it is run in."""
        folder = resources.files("autotune.recover")
        found = {f"autotune.recover.{name}": folder.joinpath(f"{name}.py").read_text("utf-8") for name in _PARTS}
        for entry in folder.joinpath("operators").iterdir():
            if entry.name.endswith(".py") and entry.name != "__init__.py":
                found[f"autotune.recover.operators.{entry.name.removesuffix('.py')}"] = entry.read_text("utf-8")
        return {**found, "autotune.errors": _ERRORS}

    def options(self, target: Target) -> dict[str, Any]:
        """Raises `BadProfile` for a provider that is not this runtime's, and for options that are none."""
        mode, graph = target.options.get("mode", "eager"), target.options.get("cuda_graph", False)
        if mode not in _MODES:
            raise BadProfile(f"target {target.name!r}: options.mode is {mode!r}; write one of {', '.join(_MODES)}")
        if not isinstance(graph, bool):
            raise BadProfile(f"target {target.name!r}: options.cuda_graph is {graph!r}; write true or false")
        return {
            "runtime": self.name,
            "device": self.device,
            "provider": target.provider,
            "threads": target.threads,
            "mode": mode,
            "cuda_graph": graph and self.device == "cuda",
        }

    def files(self, target: Target) -> dict[str, Path]:
        return {}

    def address_space(self, target: Target) -> int:
        """No limit: CUDA and torch's compiler reserve addresses that they never use."""
        return 0

    def install_hint(self, target: Target) -> str:
        """For a local target without an interpreter of its own: an environment beside ours, which has another torch."""
        if self.device != "cuda":
            python = target.python or (sys.executable if target.transport == "local" else "python3")
            return f"{shlex.quote(python)} -m pip install numpy onnx 'torch>=2.10' (Python 3.11 or later)"
        # pip leaves a torch without CUDA where it is: its version is as good.
        new = target.transport == "local" and target.python is None
        force = "" if new else "--force-reinstall "
        command = apart(
            target,
            "torch-gpu",
            lambda pip: (
                f"{pip} {force}'torch>=2.10' --index-url {_CUDA_BUILDS} && {pip} numpy onnx 'nvidia-ml-py>=13.580,<14'"
            ),
        )
        return (
            f"{command} (Python 3.11 or later; torch's builds for CUDA 13.0, which want driver 580 or newer: for an "
            "older one cu126 in place of cu130)"
        )


class TorchCpu(TorchCuda):
    """The same on the CPU, under its own name: its numbers are never those of a card."""

    name = "torch-cpu"
    device = "cpu"
