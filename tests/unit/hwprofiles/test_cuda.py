"""What is said of a machine's CUDA: without a driver, and with drivers that a C compiler makes here."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hwprofiles.agent import cuda

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
DRIVER = """
#include <string.h>
#include <stddef.h>
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA H200", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 150000000000ull; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 9 : 0; return 0; }
int cuDeviceGetUuid(unsigned char *uuid, int device) { for (int i = 0; i < 16; i++) uuid[i] = i; return 0; }
"""
ASK = """
import json, sys
from hwprofiles.agent import cuda
try:
    print(json.dumps(cuda.probe(int(sys.argv[1]))))
except cuda.CudaProblem as error:
    assert error.kind == "unavailable" and error.advised
    print(json.dumps(str(error)))
"""


def driver(folder: Path, version: int = 13000, init: int = 0, count: int = 1, source: str = DRIVER) -> Path:
    """A folder with a libcuda.so.1 that answers so."""
    if COMPILER is None:
        pytest.skip("there is no C compiler here (cc, gcc or clang) to make a driver's library")
    (folder / "driver.c").write_text(source)
    facts = [f"-DVERSION={version}", f"-DINIT={init}", f"-DCOUNT={count}"]
    command = [COMPILER, *facts, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "driver.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def probe(folder: Path | None, least: int = 13000) -> Any:
    """What `probe` finds in a process of its own, where this folder has the driver."""
    root = str(Path(cuda.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    if folder is not None:
        environment["LD_LIBRARY_PATH"] = str(folder)
    answer = subprocess.run(
        [sys.executable, "-c", ASK, str(least)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout)


def test_a_card_tells_what_it_is(tmp_path: Path) -> None:
    assert probe(driver(tmp_path)) == {
        "name": "NVIDIA H200",
        "uuid": "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
        "compute_capability": "9.0",
        "memory_bytes": 150_000_000_000,
        "cuda": "13.0",
    }


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
def test_no_driver_is_one_line() -> None:
    said = probe(None)
    assert said.startswith("no NVIDIA driver here: libcuda.so.1: cannot open shared object file")
    assert "install the driver, or start the container with it (docker run --gpus all)" in said and "\n" not in said


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"version": 12040}, "the NVIDIA driver supports CUDA 12.4; 13.0 is needed: update the driver"),
        ({"init": 100}, "shows CUDA no card; look at nvidia-smi -L and at CUDA_VISIBLE_DEVICES"),
        ({"count": 0}, "shows CUDA no card"),
        ({"init": 34}, "is the stub of the CUDA toolkit"),
        ({"init": 803}, "differ in version; restart"),
        ({"init": 999}, "the NVIDIA driver says error 999 to cuInit; look at nvidia-smi"),
        (
            {"source": "int cuDriverGetVersion(int *v) { *v = 13000; return 0; }"},
            "has no cuInit: it is too old; update",
        ),
        ({"source": "int nothing;"}, "has no cuDriverGetVersion: it is too old; update"),
    ],
)
def test_every_wrong_driver_is_one_line(tmp_path: Path, facts: dict[str, Any], said: str) -> None:
    told = probe(driver(tmp_path, **facts))
    assert said in told and "\n" not in told


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_all_that_is_used_of_torch_exists() -> None:
    import torch

    cards = ("Stream", "Event", "CUDAGraph", "graph", "set_stream", "is_available", "OutOfMemoryError")
    assert all(hasattr(torch.cuda, name) for name in cards)
    tree = ast.parse(inspect.getsource(cuda.TorchCuda).lstrip())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "cuda"
    }
    assert used <= set(dir(torch.cuda)) and len(used) >= 5
    assert all(hasattr(torch.cuda.CUDAGraph, name) for name in ("replay",))
    assert all(hasattr(torch.cuda.Event, name) for name in ("record", "elapsed_time"))


@pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-bindings is not installed")
def test_all_that_is_used_of_cuda_bindings_exists() -> None:
    from cuda.bindings import runtime

    source = inspect.getsource(cuda.BoundCuda)
    names = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr.startswith("cuda") and node.attr != "cuda"
    }
    assert len(names) >= 20
    missing = {
        name
        for name in names
        if not hasattr(runtime, name)
        and not hasattr(runtime.cudaMemcpyKind, name)
        and not hasattr(runtime.cudaStreamCaptureMode, name)
    }
    assert missing == set()
