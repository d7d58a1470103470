"""Peak memory of recovery by training: all weights, or adapters over the recipe's rounded weights (`lora_rank`).

    python benchmarks/recover_memory.py [--width 1024] [--layers 25] [--rank 16] [--steps 6] [--out FILE]

The model: `layers` products of width x width random float32 weights with a normalisation and Relu between them, 100 MiB
by default. The student is the model itself in a format, the teacher the model. Each case trains in a fresh process
through the class that a study trains with, 6 steps of 32 samples with three looks at validation and a fixed rate (the
tries of rates hold further copies of what is trained), and keeps each checkpoint until the next one comes, as a study
does. The peak is that of the resident set (`VmHWM`) from the beginning of the training on, less what was resident
before the model was read; the teacher's float32 weights are part of it. "float32": no format, so that adapters lie over
float32 weights. Needs 2 GiB of RAM and some minutes on one core.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RESULT = Path(__file__).parent / "results" / "recover_memory.json"
FORMATS = ("none", "w4-b32-load")
BATCH = 32


def network(width: int, layers: int) -> onnx.ModelProto:
    """x [batch, width] -> y [batch, width]."""
    draw = np.random.default_rng(0)
    nodes, constants, current = [], [], "x"
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    constants += [numpy_helper.from_array(ones, "scale"), numpy_helper.from_array(zeros, "shift")]
    for index in range(layers):
        weight = draw.standard_normal((width, width), np.float32) * np.float32(width**-0.5)
        constants.append(numpy_helper.from_array(weight, f"weight{index}"))
        nodes.append(helper.make_node("MatMul", [current, f"weight{index}"], [f"m{index}"], name=f"layer{index}"))
        inputs = [f"m{index}", "scale", "shift"]
        nodes.append(helper.make_node("LayerNormalization", inputs, [f"n{index}"], name=f"norm{index}"))
        nodes.append(helper.make_node("Relu", [f"n{index}"], [f"r{index}"], name=f"relu{index}"))
        current = f"r{index}" if index + 1 < layers else f"n{index}"
    nodes.pop()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    y = helper.make_tensor_value_info(current, TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(nodes, "wide", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def resident(name: str) -> int:
    """`VmRSS` or `VmHWM` of this process, bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def child(choice: str, rank: int, width: int, layers: int, steps: int) -> dict[str, Any]:
    """One training."""
    import torch

    from autotune.compress.assembly import Assembler
    from autotune.compress.dialects.ort_cpu import OrtCpu
    from autotune.compress.ingest import load_model
    from autotune.config import RecoverTable
    from autotune.recipe import Recipe
    from autotune.search.recovery.training import Training
    from autotune.techniques.quantize import Quantize
    from autotune.techniques.recover import Recover
    from autotune.workload import Dataset, Sample, Workload

    torch.set_num_threads(1)
    draw = np.random.default_rng(1)
    samples = [Sample(f"s{i}", {"x": draw.standard_normal((1, width), np.float32)}, 0) for i in range(20 * BATCH)]
    train = Dataset("train", samples)
    # What the first training of a process costs is not the model's: torch's own pages, the code of our operators.
    warm_up = network(32, 2)
    for weight, bytes_before in ((warm_up, 0), (network(width, layers), resident("VmRSS"))):
        before = bytes_before
        ingested = load_model(weight)
        assembler = Assembler(
            ingested.model, ingested.inspection.layers, OrtCpu(), {"quantize": Quantize(), "recover": Recover()}
        )
        small = weight is warm_up
        data = Dataset("t", [Sample(s.id, {"x": s.inputs["x"][:, :32]}, 0) for s in samples]) if small else train
        workload = Workload(weight, data, data, [], list, train=data)
        table = RecoverTable.model_validate(
            {"minutes": 600.0, "steps": 2 if small else steps, "batch": BATCH, "relative_rate": 0.003,
             "compare": "numbers", "lora_rank": rank}
        )  # fmt: skip
        decisions = dict.fromkeys(assembler.source.layers, choice) if choice != "none" else {}
        training = Training(table, assembler, workload, data)
        student = training.student(Recipe({"quantize": decisions}) if decisions else Recipe())
        settings = training.settings(evaluate_every=max(1, steps // 3))
        if not small:
            gc.collect()
            source = resident("VmRSS") - before
            Path("/proc/self/clear_refs").write_text("5")
        begun = time.perf_counter()
        values = [checkpoint.validation for checkpoint in training.run(student, settings)]
    return {
        "peak": resident("VmHWM") - before,
        "before_training": source,
        "seconds": round(time.perf_counter() - begun, 1),
        "validation": [float(f"{values[0]:.3g}"), float(f"{values[-1]:.3g}")],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=2, metavar=("FORMAT", "RANK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = (arguments.width, arguments.layers, arguments.steps)
    if arguments.child:
        print(json.dumps(child(arguments.child[0], int(arguments.child[1]), *sizes)))
        return 0
    size = arguments.layers * 4 * arguments.width**2
    options = ["--width", str(sizes[0]), "--layers", str(sizes[1]), "--steps", str(sizes[2])]
    results: dict[str, Any] = {}
    for choice in FORMATS:
        for name, rank in (("all weights", 0), ("adapters", arguments.rank)):
            case = f"{name}, {'float32' if choice == 'none' else choice}"
            ran = subprocess.run(
                [sys.executable, __file__, *options, "--child", choice, str(rank)], capture_output=True, text=True
            )
            if ran.returncode:
                print(f"{case:28} failed: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}", flush=True)
                return 1
            found = json.loads(ran.stdout.splitlines()[-1])
            found["ratio"] = round(found["peak"] / size, 2)
            results[case] = {**found, "load_average": os.getloadavg()[0]}
            print(f"{case:28} {found['ratio']:5.2f} times the model's size", flush=True)
    record = {
        "benchmark": "recover_memory",
        "command": f"python benchmarks/recover_memory.py {' '.join(options)} --rank {arguments.rank}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "onnx", "numpy")},
        "model_bytes": size,
        "rank": arguments.rank,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
