"""What a result says of where it was found: card, machine, commit. Stdlib only."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments

ROOT = Path(__file__).parents[2]


def device_side(name: str) -> Any:
    """A module of the agent, which needs nothing but the standard library; from this tree where none is installed."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"hwprofiles.agent.{name}")


cuda, nvml = device_side("cuda"), device_side("nvml")


@dataclass(frozen=True)
class Seen:
    """The card that CUDA uses, or why there is none. `uuid` finds it again among several, and is never written down."""

    card: dict[str, Any] | None = None
    uuid: str = ""
    nvml: str = ""  # why the card could not be asked for more
    no_card: str = ""
    trial: str = ""

    @property
    def name(self) -> str:
        return "none" if self.card is None else str(self.card["name"])

    def facts(self) -> dict[str, Any]:
        """For the JSON."""
        told = {"card": self.card, "nvml": self.nvml, "no_card": self.no_card, "trial": self.trial}
        return {name: value for name, value in told.items() if value}


def card() -> Seen:
    """What the driver says of the card."""
    try:
        seen = cuda.probe()
    except cuda.CudaProblem as error:
        return Seen(no_card=str(error))
    uuid = str(seen["uuid"])
    try:
        return Seen(card=nvml.identity(uuid=uuid), uuid=uuid)
    except nvml.NvmlProblem as error:
        return Seen(card={key: value for key, value in seen.items() if key != "uuid"}, uuid=uuid, nvml=str(error))


def asked_again(seen: Seen, python: str) -> Seen:
    """The same card by an interpreter that has nvidia-ml-py, whose order of cards need not be CUDA's."""
    code = "import json, sys; from hwprofiles.agent import nvml; print(json.dumps(nvml.identity(uuid=sys.argv[1])))"
    done = environments.said([python, "-c", code, seen.uuid])
    return Seen(json.loads(done.stdout), seen.uuid, "by the environment main") if done.returncode == 0 else seen


def facts() -> dict[str, Any]:
    """Everything but the card."""
    processor = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "processor": processor or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Of this source, with "+changes" if it is not what was committed. HW_AUTOTUNE_COMMIT says it where git cannot."""
    if told := os.environ.get("HW_AUTOTUNE_COMMIT"):
        return told
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: set HW_AUTOTUNE_COMMIT where there is no repository"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
