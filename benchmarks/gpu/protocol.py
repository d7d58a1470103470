"""The measuring protocol on a card, through `torch-cuda`: is what it says true?

    python benchmarks/gpu/protocol.py --out FILE [--quick]

For rows of equal linear layers of 1, 10 and 100 million numbers, in float32 and in float16: the same model against
itself (A/A: within 1 %), a model with one layer in 33 more (3 %: must be found), plain launches against CUDA graphs,
energy of an inference by NVML, and memory by NVML beside what torch's own allocator says. Ends with 1 if A/A or the
injected difference fail.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.device import open_device
from hwprofiles.measurement import Measurement
from hwprofiles.scenario import SEARCH, Scenario
from hwprofiles.target import Target

LAYERS = 33
WIDTHS = {"1M": 176, "10M": 552, "100M": 1744}  # 33 square weights of this width have so many numbers
BATCH = 256
TYPES = {"float32": (TensorProto.FLOAT, np.float32), "float16": (TensorProto.FLOAT16, np.float16)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--runtime", choices=["torch-cuda", "torch-cpu"], default="torch-cuda", help="torch-cpu: a trial"
    )
    arguments = parser.parse_args()
    runs = 2 if arguments.quick else 10
    sizes = list(WIDTHS)[:1] if arguments.quick else list(WIDTHS)
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hw-autotune-protocol-") as folder:
        for size in sizes:
            for kind in TYPES:
                for graph in (True, False) if arguments.runtime == "torch-cuda" else (False,):
                    found = case(Path(folder), size, kind, graph, runs, arguments.runtime)
                    cases.append(found)
                    print(f"{size} {kind} graph={graph}: {json.dumps(found['summary'])}", file=sys.stderr, flush=True)
    result = {"runtime": arguments.runtime, "runs": runs, "layers": LAYERS, "batch": BATCH, "cases": cases}
    arguments.out.write_text(json.dumps(result, indent=1))
    return 0 if all(found["summary"]["as_wanted"] for found in cases) else 1


def case(folder: Path, size: str, kind: str, graph: bool, runs: int, runtime: str) -> dict[str, Any]:
    """All measurements of one model, in one setting."""
    base, more = model(folder, size, kind, LAYERS), model(folder, size, kind, LAYERS + 1)
    feeds = [
        {"x": np.random.default_rng(seed).standard_normal((BATCH, WIDTHS[size])).astype(TYPES[kind][1])}
        for seed in range(4)
    ]
    device_name = "cuda" if runtime == "torch-cuda" else "cpu"
    target = Target(name="card", runtime=runtime, provider=device_name, timeout=600, options={"cuda_graph": graph})
    same, added, records = [], [], []
    began = time.perf_counter()
    for number in range(runs):
        scenario = SEARCH.model_copy(update={"seed": number, "memory_runs": 0})
        with open_device(target, work=folder / "work") as device:
            same.append(ratio(device.measure(base, feeds, baseline=base, scenario=scenario)))
            added.append(ratio(device.measure(more, feeds, baseline=base, scenario=scenario)))
    with open_device(target, work=folder / "work") as device:
        whole = device.measure(base, feeds, scenario=energy_scenario())
    records.append(whole)
    if whole.failure is not None or whole.latency is None:
        raise SystemExit(f"{size} {kind}: {whole.failure}")
    within = sum(abs(run["ratio"] - 1) <= 0.01 for run in same)
    found = sum(run["low"] > 1 for run in added)
    card = whole.accelerator
    return {
        "size": size,
        "type": kind,
        "cuda_graph_asked_for": graph,
        "same_model": same,
        "one_layer_more": added,
        "latency": whole.latency.median.model_dump(),
        "energy": None if whole.energy is None else whole.energy.model_dump(),
        "accelerator": None if card is None else card.model_dump(mode="json"),
        "conditions": None if whole.conditions is None else whole.conditions.model_dump(mode="json"),
        "quality": list(whole.quality),
        "environment": whole.environment,
        "file_bytes": base.stat().st_size,
        "summary": {
            "median_seconds": whole.latency.median.value,
            "same_within_1_percent": f"{within} of {runs}",
            "one_layer_more_found": f"{found} of {runs}",
            "one_layer_more_ratio": sorted(run["ratio"] for run in added)[runs // 2],
            "as_wanted": within >= 0.9 * runs and found >= 0.9 * runs,
        },
        "seconds": round(time.perf_counter() - began, 1),
    }


def energy_scenario() -> Scenario:
    """One measurement with memory and energy."""
    return SEARCH.model_copy(update={"energy_seconds": 12.0, "memory_runs": 1})


def ratio(found: Measurement) -> dict[str, Any]:
    """What one comparison says."""
    if found.ratio is None:
        raise SystemExit(str(found.failure))
    estimate = found.ratio.estimate
    return {
        "ratio": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "pairs": found.ratio.pairs,
        "quality": list(found.quality),
        "seconds": round(found.seconds, 2),
    }


def model(folder: Path, size: str, kind: str, layers: int) -> Path:
    """`layers` times a linear layer with ReLU, each with weights of its own."""
    path = folder / f"{size}-{kind}-{layers}.onnx"
    if path.is_file():
        return path
    width, (element, dtype) = WIDTHS[size], TYPES[kind]
    nodes, weights, last = [], [], "x"
    for index in range(layers):
        array = np.random.default_rng(index).normal(0, (2 / width) ** 0.5, (width, width)).astype(dtype)
        weights.append(numpy_helper.from_array(array, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"m{index}"], name=f"matmul{index}"))
        last = "y" if index == layers - 1 else f"r{index}"
        nodes.append(helper.make_node("Relu", [f"m{index}"], [last], name=f"relu{index}"))
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("x", element, ["batch", width])],
        [helper.make_tensor_value_info("y", element, ["batch", width])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


if __name__ == "__main__":
    sys.exit(main())
