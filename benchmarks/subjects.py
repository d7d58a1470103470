"""Models, a neighbour that disturbs, and result files for the benchmarks of measuring."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.device import Device, open_device
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.registry import find_target
from hwprofiles.scenario import Scenario

RESULTS = Path(__file__).parent / "results"
Feed = dict[str, np.ndarray]

_BURN = """
import random, sys, time
steady, draw = sys.argv[1] == "steady", random.Random(int(sys.argv[2]))
while True:
    until = time.monotonic() + draw.uniform(0.3, 2.0)
    while steady or time.monotonic() < until:
        sum(range(1000))
    time.sleep(draw.uniform(0.3, 2.0))
"""


@dataclass(frozen=True)
class Subject:
    """A model with an input."""

    path: Path
    feed: Feed


def dense(folder: Path, width: int = 64) -> Subject:
    """Two small layers: a few microseconds, mostly the runtime's own overhead."""
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.normal(0, width**-0.5, (width, width)).astype(np.float32), f"w{n}") for n in (0, 1)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["y"]),
    ]
    return _save(folder / f"dense-{width}.onnx", nodes, weights, (1, width))


def convolutions(folder: Path, layers: int, channels: int = 16, height: int = 32, width: int = 32) -> Subject:
    """Equal 3x3 convolutions in a row, all with the same weights: n layers cost n times what one costs."""
    kernel = np.random.default_rng(0).normal(0, 1 / (3 * channels**0.5), (channels, channels, 3, 3)).astype(np.float32)
    nodes, last = [], "x"
    for index in range(layers):
        nodes.append(helper.make_node("Conv", [last, "w"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    weights = [numpy_helper.from_array(kernel, "w")]
    return _save(folder / f"convolutions-{layers}.onnx", nodes, weights, (1, channels, height, width))


def recogniser() -> Subject:
    """The text recogniser of the study `ocr` (PP-OCRv4, from rapidocr-onnxruntime), about 10 ms."""
    path = Path(str(resources.files("rapidocr_onnxruntime") / "models" / "ch_PP-OCRv4_rec_infer.onnx"))
    return Subject(path, {"x": _feed((1, 3, 48, 160))["x"]})


def _save(path: Path, nodes: list[Any], weights: list[Any], shape: tuple[int, ...]) -> Subject:
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return Subject(path, _feed(shape))


def _feed(shape: tuple[int, ...]) -> Feed:
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


@contextlib.contextmanager
def opened(folder: Path, quiet_wait: float | None = None) -> Iterator[Device]:
    """The local target in a process of its own; `quiet_wait` seconds of patience with a busy machine."""
    target = find_target("local")
    if quiet_wait is not None:
        waits = {"quiet_wait": quiet_wait, "quiet_wait_final": quiet_wait}
        target = target.model_copy(update={"options": {**target.options, **waits}})
    with open_device(target, work=folder) as device:
        yield device


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hw-autotune-benchmark-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def neighbour(processes: int, *, steady: bool) -> Iterator[None]:
    """Processes that keep a CPU busy each: all the time, or in bursts of 0.3 to 2 s."""
    kind, others = "steady" if steady else "bursts", []
    try:
        for number in range(processes):
            others.append(
                subprocess.Popen([sys.executable, "-c", _BURN, kind, str(random.Random(number).random())[2:]])
            )
        if processes:
            time.sleep(1)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def write(name: str, out: Path | None, began: float, fingerprint: Fingerprint | None, **facts: Any) -> dict[str, Any]:
    """The result file, with what it was measured on and how; its content."""
    result = {
        "benchmark": name,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **{
            key: value.model_dump(mode="json") if isinstance(value, Scenario) else value for key, value in facts.items()
        },
        "fingerprint": None if fingerprint is None else fingerprint.model_dump(mode="json"),
        "load_average_at_end": load_average(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result
