"""What a target still needs before it can be measured on. Looks at this machine only; opens no connection."""

from __future__ import annotations

import functools
import importlib.util
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from hwprofiles.agent import probe
from hwprofiles.fingerprint import Fingerprint, check_declared
from hwprofiles.registry import RUNTIMES, TRANSPORTS
from hwprofiles.target import Target

_GPU_PACKAGES = ("onnxruntime-gpu", "onnxruntime-gpu-cu12")
# Runtime -> modules of which it imports one, and what brings it. TensorRT's libraries are on no other index than
# NVIDIA's; RTX without its meta package, as our documentation installs it, has the bindings only.
_INTERPRETERS = {
    "tensorrt": (("tensorrt",), "tensorrt-cu13, whose libraries pip takes from NVIDIA's index, pypi.nvidia.com"),
    "tensorrt-rtx": (
        ("tensorrt_rtx_bindings", "tensorrt_rtx"),
        "tensorrt-rtx-cu13-libs and tensorrt-rtx-cu13-bindings",
    ),
    "torch-cuda": (("torch",), "torch and onnx"),
    "torch-cpu": (("torch",), "torch and onnx"),
}
ON_CARDS = frozenset({"tensorrt", "tensorrt-rtx", "torch-cuda", "onnxruntime-cuda"})


def needs(target: Target) -> list[str]:
    """What is missing, each in a few words with the flag that gives it; empty if nothing is known to be missing.

    Whether a host answers or a phone is plugged in, only probing tells.
    """
    found = _plugins(target)
    options = target.options
    if target.transport == "ssh" and not options.get("host"):
        found.append("a host (--host)")
    if target.transport == "adb" and not options.get("bundle") and target.python is None:
        found.append("a bundle made by `autotune targets bundle` (--bundle)")
    if target.transport == "command" and not options.get("prefix"):
        found.append('a command (--set \'options.prefix=["docker", "exec", "-i", "NAME"]\')')
    if target.runtime == "runner":
        program = options.get("runner")
        if not isinstance(program, str) or not program:
            found.append("a runner (--runner)")
        elif not Path(program).expanduser().is_file():
            found.append(f"its runner {program}, which is not there")
    if target.transport == "local":
        found += _local_runtime(target) + _local_hardware(target)
    return found


def _plugins(target: Target) -> list[str]:
    wanted = (("runtime", RUNTIMES, target.runtime), ("transport", TRANSPORTS, target.transport))
    return [
        f"a package that brings the {kind} {name!r}"
        for kind, group, name in wanted
        if not metadata.entry_points(group=group, name=name)
    ]


def _local_runtime(target: Target) -> list[str]:
    if target.python is not None:
        program = shutil.which(str(Path(target.python).expanduser()))
        return [] if program else [f"its interpreter {target.python}, which is not there (--set python=PATH)"]
    if target.runtime in _INTERPRETERS:
        modules, what = _INTERPRETERS[target.runtime]
        there = any(importlib.util.find_spec(module) is not None for module in modules)
        return [] if there else [f"an interpreter with {what} (--set python=PATH)"]
    if target.runtime not in ("onnxruntime", "onnxruntime-cuda"):
        return []
    if importlib.util.find_spec("onnxruntime") is None:
        return [f"onnxruntime: {sys.executable} -m pip install onnxruntime"]
    if target.provider == "CUDAExecutionProvider" and not any(_installed(name) for name in _GPU_PACKAGES):
        return ["an interpreter with onnxruntime-gpu (--set python=PATH)"]
    return []


def _local_hardware(target: Target) -> list[str]:
    differs = {check.fact: check for check in check_declared(target, _this_machine()) if not check.agrees}
    wanted = {
        "cpu": "called",
        "isa": "with",
        "lacks": "without",
        "cores": "with this many cores:",
        "memory": "with memory of",
    }
    words = [f"{word} {differs[fact].declared}" for fact, word in wanted.items() if fact in differs]
    missing = [f"a machine {' and '.join(words)} (--host, if it is another one)"] if words else []
    card = target.declares.accelerator or ("an NVIDIA card" if target.runtime in ON_CARDS else "")
    if card and shutil.which("nvidia-smi") is None:
        missing.append(f"{card} (no nvidia-smi here; for another machine --host)")
    return missing


@functools.cache
def _this_machine() -> Fingerprint:
    """What the agent would find here, as far as declared facts need it; no runtime is loaded."""
    facts = probe.identity()
    facts.pop("interpreter")
    nothing = "none"
    return Fingerprint(
        **facts, numpy=nothing, runtime=nothing, runtime_version=nothing, provider=platform.machine(), threads=1
    )


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
