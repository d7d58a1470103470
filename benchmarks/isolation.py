"""What process isolation costs: inference through the agent against plain onnxruntime in this process.

    python benchmarks/isolation.py [--out FILE]

Both sides run the same file on the same inputs with one thread, in randomised interleaved pairs of blocks. Also:
what it costs to open a device (start the agent, import the runtime, read the fingerprint) and to recover from a
crash of the measured process. Takes less than a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.agent.processes import descendants
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure
from hwprofiles.registry import find_target
from hwprofiles.statistics import ratio_interval

PAIRS = 16
BLOCK_SECONDS = 0.25
RESULT = Path(__file__).parent / "results" / "isolation.json"
CASES = {  # name: (channels, layers, input height, input width, classes)
    "image 32x32, 1 thread": (16, 2, 32, 32, 10),
    "image 48x160, 1 thread": (32, 4, 48, 160, 1000),
    "image 48x320, 1 thread, 1 MB of outputs": (48, 3, 48, 320, 0),
}


def make_model(path: Path, channels: int, layers: int, classes: int) -> None:
    """Convolutions with Relu, then a pooled classifier, or the feature map itself if `classes` is 0."""
    draw = np.random.default_rng(0)
    nodes, weights, last, depth = [], [], "x", 3
    for index in range(layers):
        kernel = draw.normal(0, 0.1, (channels, depth, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last, depth = f"r{index}", channels
    if classes:
        head = draw.normal(0, 0.1, (channels, classes)).astype(np.float32)
        weights.append(numpy_helper.from_array(head, "head"))
        nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
        nodes.append(helper.make_node("MatMul", ["flat", "head"], ["y"]))
    else:
        nodes.append(helper.make_node("MaxPool", [last], ["y"], kernel_shape=[1, 3], strides=[1, 3]))
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def compare(device: Device, path: Path, feed: dict[str, np.ndarray]) -> dict[str, object]:
    """Seconds per inference on both sides and the ratio agent / in process with its interval."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.target.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=[device.target.provider])

    (there,), here = device.infer(path, [feed]), session.run(None, feed)
    np.testing.assert_array_equal(there["y"], here[0])
    start = time.perf_counter()
    for _ in range(5):
        session.run(None, feed)
    batches = max(8, min(1000, round(BLOCK_SECONDS * 5 / (time.perf_counter() - start))))

    def inside() -> None:
        for _ in range(batches):
            session.run(None, feed)

    def agent() -> None:
        for _ in device.infer(path, [feed] * batches):
            pass

    sides: dict[str, Callable[[], None]] = {"inside": inside, "agent": agent}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order, names = random.Random(0), list(sides)
    for pair in range(PAIRS + 2):
        order.shuffle(names)
        for name in names:
            start = time.perf_counter()
            sides[name]()
            if pair >= 2:  # the first two warm up
                seconds[name].append((time.perf_counter() - start) / batches)
    logs = [float(np.log(a / b)) for a, b in zip(seconds["agent"], seconds["inside"], strict=True)]
    ratio, low, high = ratio_interval(logs, seed=0)
    inside_s, agent_s = (statistics.median(seconds[name]) for name in ("inside", "agent"))
    return {
        "batches_per_block": batches,
        "input_bytes": int(feed["x"].nbytes),
        "output_bytes": int(np.asarray(here[0]).nbytes),
        "in_process_seconds": inside_s,
        "agent_seconds": agent_s,
        "added_seconds": agent_s - inside_s,
        "ratio": {"value": ratio, "low": low, "high": high, "pairs": PAIRS},
    }


def start_cost(work: Path, repeats: int = 5) -> float:
    """Seconds from nothing to a greeted agent with the runtime imported, median."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        with open_device(find_target("local"), work=work):
            spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def recovery_cost(device: Device, work: Path, path: Path, feed: dict[str, np.ndarray], repeats: int = 5) -> float:
    """Seconds from the death of the measured process to the next good answer, median."""
    spent = []
    for _ in range(repeats):
        list(device.infer(path, [feed]))
        for process in workers(work):
            os.kill(process, signal.SIGKILL)
        start = time.perf_counter()
        try:  # a death that is found before anything was asked costs only the new start
            list(device.infer(path, [feed]))
        except DeviceFailure as error:
            assert error.failure.kind == "crash"
        list(device.infer(path, [feed]))
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def workers(work: Path) -> list[int]:
    """Processes below this one that have the runtime loaded in `work`: no supervisor, no keeper of the lease."""
    found = []
    supervised = {child: parent for parent in descendants(os.getpid()) for child in descendants(parent)}
    for process in supervised:
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            loaded = b"onnxruntime" in Path(f"/proc/{process}/maps").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if loaded and f"{work}/agent-".encode() in command:
            found.append(process)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result goes (JSON)")
    out = parser.parse_args().out
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["HW_AUTOTUNE_LOCKS"] = f"{folder}/locks"  # queueing behind another study is no cost of isolation
        cases = {}
        with open_device(find_target("local"), work=work) as device:
            for name, (channels, layers, height, width, classes) in CASES.items():
                path = work / f"{channels}.onnx"
                make_model(path, channels, layers, classes)
                draw = np.random.default_rng(1)
                feed = {"x": draw.normal(size=(1, 3, height, width)).astype(np.float32)}
                cases[name] = compare(device, path, feed)
            recovery = recovery_cost(device, work, path, feed)
            fingerprint = device.fingerprint
        start = start_cost(work)
    result = {
        "benchmark": "isolation",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": cases,
        "agent_start_seconds": start,
        "recovery_seconds": recovery,
        "fingerprint": fingerprint.model_dump(mode="json"),
        "load_average": os.getloadavg()[0],
        "seconds": time.perf_counter() - began,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def show(result: dict[str, object]) -> None:
    print(f"{'case':42} {'in process':>12} {'agent':>12} {'added':>10}   ratio [95 %]")
    for name, case in result["cases"].items():
        ratio = case["ratio"]
        print(
            f"{name:42} {case['in_process_seconds'] * 1e3:9.3f} ms {case['agent_seconds'] * 1e3:9.3f} ms "
            f"{case['added_seconds'] * 1e6:7.0f} µs   "
            f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        )
    if result["load_average"] > 1.5:
        print(f"load average {result['load_average']:.1f}: the machine was not quiet, the added time is too high")
    print(f"agent start {result['agent_start_seconds']:.2f} s; recovery {result['recovery_seconds']:.2f} s")


if __name__ == "__main__":
    main()
