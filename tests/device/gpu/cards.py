"""Whether there is a card, and interpreters whose runtimes can use it; why not, in words that a skipped test shows.

`benchmarks/gpu/run.sh` makes the interpreters and names them in the environment: HW_AUTOTUNE_ORT_CUDA_PYTHON (with
onnxruntime-gpu, which cannot live beside ours); without, the one that runs the tests is asked.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from hwprofiles.agent import cuda

ORT_CUDA_PYTHON = os.environ.get("HW_AUTOTUNE_ORT_CUDA_PYTHON", sys.executable)


@functools.cache
def without_card() -> str:
    """Why no card can be used here; "" if one can."""
    try:
        cuda.probe()
    except cuda.CudaProblem as error:
        return str(error)
    return ""


@functools.cache
def without(python: str, code: str) -> str:
    """Why `code` does not hold there (it prints True): its last line; "" if it does."""
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        return str(error)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "" if lines and lines[-1] == "True" else (lines or ["it says nothing"])[-1]


def need_card() -> None:
    """Skip the test, with the reason, unless a card can be used."""
    if without_card():
        pytest.skip(f"no card: {without_card()}")


def need_ort_cuda() -> None:
    """Skip likewise unless an onnxruntime with CUDA is there."""
    need_card()
    code = "import onnxruntime as o; print('CUDAExecutionProvider' in o.get_available_providers())"
    if why := without(ORT_CUDA_PYTHON, code):
        pytest.skip(f"{ORT_CUDA_PYTHON} has no onnxruntime with CUDA: {why}")


def need_torch_cuda() -> None:
    """Skip likewise unless this interpreter's torch can use the card."""
    need_card()
    if why := without(sys.executable, "import torch; print(torch.cuda.is_available())"):
        pytest.skip(f"torch in {sys.executable} cannot use the card: {why}")
