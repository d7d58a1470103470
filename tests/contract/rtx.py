"""TensorRT-RTX's real parser and builder, which need no card, behind one function. A crash is an answer, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from hwprofiles.measurement import Kernel

CHILD = Path(__file__).with_name("rtx_child.py")
needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None and "CI" not in os.environ,  # there it is a fault
    reason="TensorRT-RTX is not installed: pip install 'hw-autotune[tensorrt-rtx]' (Linux, x86_64)",
)


@dataclass(frozen=True)
class Job:
    """One model to be parsed and, if `capability` is not empty, to be built for cards of that compute capability."""

    model: bytes
    capability: str = ""


@dataclass(frozen=True)
class Answer:
    """`stage` is what failed ("parse", "build", "crash"), or "done"."""

    stage: str
    message: str
    kernels: tuple[Kernel, ...] = ()


def ask(jobs: Mapping[str, Job], folder: Path) -> dict[str, Answer]:
    """What parser and builder say of each; one child process, and one more after every crash."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = []
    for number, (name, job) in enumerate(jobs.items()):
        path = folder / f"{number}.onnx"
        path.write_bytes(job.model)
        waiting.append({"name": name, "file": str(path), "capability": job.capability, "build": bool(job.capability)})
    answers: dict[str, Answer] = {}
    while waiting:
        found, code = _child(waiting, folder / "jobs.json")
        answers.update(found)
        waiting = [job for job in waiting if job["name"] not in answers]
        if waiting:
            answers[str(waiting[0]["name"])] = Answer("crash", f"the child ended with {code}")
            waiting = waiting[1:]
    return answers


def _child(jobs: Sequence[Mapping[str, object]], listing: Path) -> tuple[dict[str, Answer], int]:
    listing.write_text(json.dumps(jobs), "utf-8")
    ran = subprocess.run([sys.executable, str(CHILD), str(listing)], capture_output=True, text=True, timeout=900)
    answers = {}
    for line in ran.stdout.splitlines():
        said = json.loads(line)
        kernels = tuple(Kernel(**kernel) for kernel in said["layers"])
        answers[said["name"]] = Answer(said["stage"], said["message"], kernels)
    return answers, ran.returncode
