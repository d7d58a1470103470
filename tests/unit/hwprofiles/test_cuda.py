"""What is said of a machine's CUDA: without a driver, and with drivers that a C compiler makes here."""

from __future__ import annotations

import ast
import ctypes
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hwprofiles.agent import cuda, cuda_events
from tests.unit.hwprofiles.tensorrt.simulated_card import Card
from tests.unit.hwprofiles.tensorrt.simulated_cuda import Bindings, Torch

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
# With MIG: the first version tells the whole card's.
INSTANCE = (
    DRIVER
    + """
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) { for (int i = 0; i < 16; i++) uuid[i] = 16 + i; return 0; }
"""
)
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


def test_of_a_mig_instance_it_is_the_instance_that_is_named(tmp_path: Path) -> None:
    assert probe(driver(tmp_path, source=INSTANCE))["uuid"] == "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f"


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


@pytest.fixture(params=["torch", "cuda-bindings"])
def two(request: pytest.FixtureRequest) -> tuple[Card, Any, Any]:
    """A simulated card and two sessions' ways to it, opened one after the other as an agent does."""
    card = Card()
    if request.param == "torch":
        torch = Torch(card)
        return card, cuda.TorchCuda(torch), cuda.TorchCuda(torch)
    bindings = Bindings(card)
    return card, cuda.BoundCuda(bindings), cuda.BoundCuda(bindings)


def test_everything_goes_to_the_stream_of_whoever_asks(two: tuple[Card, Any, Any]) -> None:
    """What was asked for on another stream would not be done when ours is waited for."""
    card, first, second = two
    assert first.stream != second.stream
    for mine, value in ((first, 3), (second, 5), (first, 7)):
        here, there = mine.pinned(4), mine.buffer(4)
        here.array[:] = value

        def work(mine: Any = mine, there: Any = there) -> None:
            def add_one() -> None:
                numbers = (ctypes.c_uint8 * 4).from_address(there.pointer)
                numbers[:] = [number + 1 for number in numbers]

            card.launch(2e-3, stream=mine.stream, work=add_one)

        replay = mine.capture(work)
        begin, end = mine.event(), mine.event()
        mine.upload(there, here)
        mine.record(begin)
        replay()
        with mine.on_stream(), mine.on_stream():
            replay()
        mine.record(end)
        mine.download(here, there)
        mine.synchronize()
        assert here.array.tolist() == [value + 2] * 4
        assert mine.elapsed(begin, end) == pytest.approx(4e-3)
    assert card.replayed == 6 and not any(stream.work for stream in card.streams.values())


def test_a_capture_that_fails_leaves_the_stream_as_it_was(two: tuple[Card, Any, Any]) -> None:
    card, first, second = two
    card.graphs = False
    with pytest.raises(cuda.CudaProblem, match="stream is capturing") as caught:
        second.capture(lambda: None)
    assert caught.value.kind == "crash" and "\n" not in str(caught.value)
    with pytest.raises(ZeroDivisionError):  # why it broke off, and not that it cannot be ended
        first.capture(lambda: 1 / 0)
    assert card.capturing is None
    here, there = first.pinned(1), first.buffer(1)
    here.array[:] = 9
    first.upload(there, here)
    first.synchronize()
    assert (ctypes.c_uint8 * 1).from_address(there.pointer)[0] == 9
    assert not any(stream.work for stream in card.streams.values())


def test_memory_that_is_used_up_has_its_kind(two: tuple[Card, Any, Any]) -> None:
    card, first, _ = two
    card.memory = 100
    with pytest.raises(cuda.CudaProblem, match="out of memory on the card") as caught:
        first.buffer(101)
    assert caught.value.kind == "oom" and "\n" not in str(caught.value)
    held = first.buffer(100)
    del held
    first.release()
    assert card.memory == 100


def test_a_lost_context_ends_the_process_and_other_errors_do_not() -> None:
    bindings = Bindings(Card())
    mine = cuda.BoundCuda(bindings)
    bindings.error = 700
    with pytest.raises(cuda_events.CardBroken, match="illegal memory access"):
        mine.synchronize()
    bindings.error = 35
    with pytest.raises(cuda.CudaProblem, match=r"CUDA failed: CUDA driver version is insufficient .*cudaStreamSync"):
        mine.synchronize()
    torch = Torch(Card())
    mine = cuda.TorchCuda(torch)

    def refuse(text: str) -> Any:
        raise RuntimeError(text)

    torch.cuda.Event = lambda enable_timing: refuse("CUDA error: an illegal memory access was encountered\nmore")
    with pytest.raises(cuda_events.CardBroken, match="illegal memory access"):
        mine.event()
    torch.cuda.Stream = lambda: refuse("CUDA error: out of memory\nCUDA kernel errors might be reported later")
    with pytest.raises(cuda.CudaProblem, match="out of memory on the card: CUDA error: out of memory") as caught:
        cuda.TorchCuda(torch)
    assert caught.value.kind == "oom"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_all_that_is_used_of_torch_exists() -> None:
    import torch

    cards = ("Stream", "Event", "CUDAGraph", "graph", "stream", "empty_cache", "is_available", "OutOfMemoryError")
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
    capture = inspect.signature(torch.cuda.graph.__init__)
    capture.bind(None, None, stream=None, capture_error_mode="thread_local")
    inspect.signature(torch.cuda.stream).bind(None)
    assert issubclass(torch.cuda.OutOfMemoryError, RuntimeError)


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
    kinds = {"cudaMemcpyKind", "cudaStreamCaptureMode"}
    for name in sorted(name for name in names - kinds if callable(getattr(runtime, name, None))):
        told = re.match(rf"{name}\((.*)\)", getattr(runtime, name).__doc__ or "")
        assert told is not None, name
        simulated = inspect.signature(getattr(Bindings, name)).parameters
        real = [word for word in told.group(1).split(",") if word.strip()]
        assert len(simulated) - 1 == len(real), f"{name}: the real one takes {told.group(1)}"


@pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-bindings is not installed")
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
def test_the_real_cuda_bindings_say_that_there_is_no_driver() -> None:
    from cuda.bindings import runtime

    with pytest.raises(cuda.CudaProblem, match=r"^CUDA failed: CUDA driver version is insufficient") as caught:
        cuda.BoundCuda(runtime)
    assert caught.value.kind == "crash" and "(cudaSetDevice)" in str(caught.value)
