"""The measuring protocol on a card, through `torch-cuda`: is what it says true?

    python benchmarks/gpu/protocol.py --out FILE [--seconds S] [--continue FILE] [--quick]

For rows of equal linear layers of 1, 10 and 100 million numbers, in float32 and in float16, each eager in a CUDA graph,
eager, and compiled: the same model against itself (A/A: within 1 %), a model with one layer in 33 more (3 %: must be
found), energy of an inference by NVML, and memory by NVML beside what torch's own allocator says: what it reserved,
which is what NVML can see, and what tensors took of that. FILE is written after
each case. With --seconds a case has its share of what is left and says how many runs it had; --continue takes over the
cases that an earlier call finished. Ends with 1 if A/A or the injected difference fail.
"""

from __future__ import annotations

import argparse
import contextlib
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
MODES: dict[str, dict[str, Any]] = {
    "graph": {"mode": "eager", "cuda_graph": True},
    "eager": {"mode": "eager", "cuda_graph": False},
    "compiled": {"mode": "compiled", "cuda_graph": False},
}
RUNS, LEAST_RUNS = 10, 3
_LEAST_SECONDS = 40.0  # for a case
_WHOLE_SHARE = 0.4  # of a case's time, for the measurement with memory and energy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--continue", dest="earlier", type=Path, default=None, metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--runtime", choices=["torch-cuda", "torch-cpu"], default="torch-cuda", help="torch-cpu: a trial"
    )
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    runs = 2 if arguments.quick else RUNS
    sizes = list(WIDTHS)[:1] if arguments.quick else list(WIDTHS)
    modes = [name for name in MODES if arguments.runtime == "torch-cuda" or name != "graph"]
    wanted = [(size, kind, mode) for mode in modes for size in sizes for kind in TYPES]
    result: dict[str, Any] = {"runtime": arguments.runtime, "layers": LAYERS, "batch": BATCH, "runs_wanted": runs}
    result["cases"] = finished(arguments.earlier, arguments.runtime)
    have = {(case["size"], case["type"], case["mode"]) for case in result["cases"]}
    todo = [name for name in wanted if name not in have]
    with tempfile.TemporaryDirectory(prefix="hw-autotune-protocol-") as folder:
        while todo:
            left = deadline - time.monotonic()
            if left < _LEAST_SECONDS / 2:
                break
            share = max(left / len(todo), _LEAST_SECONDS)  # less says nothing: the last ones wait for another call
            size, kind, mode = todo.pop(0)
            found = case(Path(folder), (size, kind, mode), runs, arguments.runtime, share)
            result["cases"].append(found)
            print(f"{size} {kind} {mode}: {json.dumps(found.get('summary', found))}", file=sys.stderr, flush=True)
            write(arguments.out, result, todo)
    write(arguments.out, result, todo)
    return 1 if "failed" in result else 0


def finished(earlier: Path | None, runtime: str) -> list[dict[str, Any]]:
    """Cases that another call measured; those that failed are tried again."""
    told = {} if earlier is None else json.loads(earlier.read_text())
    return [found for found in told.get("cases", []) if "summary" in found and told.get("runtime") == runtime]


def write(out: Path, result: dict[str, Any], todo: list[tuple[str, str, str]]) -> None:
    """What there is up to now, with what was not run by name; whole or not at all."""
    result["summary"] = summary(result["cases"])
    result.pop("unfinished", None)
    if todo:
        result["unfinished"] = [f"{size} {kind} {mode}: no time was left" for size, kind, mode in todo]
    bad = [*result["summary"]["not_as_wanted"], *result["summary"]["failed"]]
    if bad:
        result["failed"] = f"{len(bad)} of {len(result['cases'])} cases: {'; '.join(bad)}"[:600]
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(result, indent=1))
    part.replace(out)


def case(
    folder: Path, name: tuple[str, str, str], runs: int, runtime: str, seconds: float = float("inf")
) -> dict[str, Any]:
    """All measurements of one model, in one setting, in about `seconds`; a failure is told and stops nothing."""
    size, kind, mode = name
    base, more = model(folder, size, kind, LAYERS), model(folder, size, kind, LAYERS + 1)
    feeds = [
        {"x": np.random.default_rng(seed).standard_normal((BATCH, WIDTHS[size])).astype(TYPES[kind][1])}
        for seed in range(4)
    ]
    device_name = "cuda" if runtime == "torch-cuda" else "cpu"
    target = Target(name="card", runtime=runtime, provider=device_name, timeout=600, options=MODES[mode])
    told: dict[str, Any] = {"size": size, "type": kind, "mode": mode, "options": MODES[mode]}
    began = time.monotonic()
    same: list[dict[str, Any]] = []
    added: list[dict[str, Any]] = []
    # A process for each run, unless time is short: starting one takes about as long as a comparison then.
    fresh = seconds >= 300
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(open_device(target, work=folder / "work"))
        whole = device.measure(base, feeds, scenario=energy_scenario(_WHOLE_SHARE * seconds))
        if whole.failure is not None or whole.latency is None:
            return {**told, "failed": str(whole.failure)}
        runs_began = time.monotonic()
        for number in range(runs):
            left = seconds - (time.monotonic() - began)
            if number >= min(LEAST_RUNS, runs) and left < (time.monotonic() - runs_began) / number:
                break
            # Of a run's time each of both comparisons has a half, of which warming up takes a part.
            longest = min(60.0, max(3.0, left / (runs - number) / 3))
            scenario = SEARCH.model_copy(update={"seed": number, "memory_runs": 0, "max_seconds": longest})
            if fresh:
                stack.close()
                device = stack.enter_context(open_device(target, work=folder / "work"))
            for compared, answers in ((base, same), (more, added)):
                found = device.measure(compared, feeds, baseline=base, scenario=scenario)
                if found.ratio is None:
                    return {**told, "failed": str(found.failure)}
                answers.append(ratio(found))
    within = sum(abs(run["ratio"] - 1) <= 0.01 for run in same)
    seen = sum(run["low"] > 1 for run in added)
    card = whole.accelerator
    return {
        **told,
        "process_for_each_run": fresh,
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
            "same_within_1_percent": f"{within} of {len(same)}",
            "one_layer_more_found": f"{seen} of {len(added)}",
            "one_layer_more_ratio": sorted(run["ratio"] for run in added)[len(added) // 2],
            "as_wanted": within >= 0.9 * len(same) and seen >= 0.9 * len(added),
            "memory": memory(whole, base.stat().st_size),
            "energy": energy(whole),
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def memory(whole: Measurement, file_bytes: int) -> dict[str, Any] | str:
    """What NVML says that the process took, beside what torch's allocator says; or why there is no such number.

    The allocator tells two numbers: what tensors took at most (`max_memory_allocated`; here weights and activations),
    and what it took from the driver for them (`max_memory_reserved`), in blocks of 2 MiB and more that it does not
    give back. NVML sees the second, and the context beside it. Source: torch, "CUDA semantics", "Memory management".
    """
    if whole.accelerator is None:
        return "not a card"
    found = whole.accelerator.memory
    if found.weights is None or found.activations is None:
        return "torch's allocator did not tell"
    allocated = found.weights + found.activations
    told: dict[str, Any] = {
        "torch_weights": found.weights,
        "torch_activations": found.activations,
        "torch_allocated": allocated,
        "torch_reserved": found.reserved,
        "weights_over_file": found.weights / file_bytes,
        "process": found.process,
        "process_source": found.process_source,
        "process_over_allocated": None,
        "process_over_reserved": None,
        "process_beyond_reserved": None,
    }
    if found.process is not None:
        told["process_over_allocated"] = found.process / max(1, allocated)
        if found.reserved is not None:
            # Above 1 by what a process with CUDA costs however small the model is, which is the difference.
            told["process_over_reserved"] = found.process / max(1, found.reserved)
            told["process_beyond_reserved"] = found.process - found.reserved
    return told


def energy(whole: Measurement) -> dict[str, Any] | str:
    """Energy of an inference, and the mean power above rest that it amounts to; or why there is none."""
    if whole.energy is None or whole.latency is None:
        return "no counter that could be read"
    found, seconds = whole.energy, whole.latency.median.value
    return {
        **found.joules.model_dump(),
        "idle_watts": found.idle_watts,
        "watts_above_idle": found.joules.value / seconds,
        "source": found.source,
    }


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """All cases side by side: modes against each other, and memory from the smallest to the largest model."""
    done = [found for found in cases if "summary" in found]
    medians: dict[str, dict[str, float]] = {}
    for found in done:
        medians.setdefault(f"{found['size']} {found['type']}", {})[found["mode"]] = found["summary"]["median_seconds"]
    faster = {
        name: {mode: by["eager"] / seconds for mode, seconds in by.items() if mode != "eager"}
        for name, by in medians.items()
        if "eager" in by
    }
    growth: dict[str, Any] = {}
    for kind, mode in sorted({(found["type"], found["mode"]) for found in done}):
        told = [
            found["summary"]["memory"]
            for size in WIDTHS
            for found in done
            if (found["size"], found["type"], found["mode"]) == (size, kind, mode)
        ]
        told = [entry for entry in told if isinstance(entry, dict) and entry["process"] is not None]
        if len(told) >= 2:
            ours = told[-1]["process"] - told[0]["process"]
            grown: dict[str, Any] = {"process": ours}
            for name in ("allocated", "reserved"):
                if all(entry[f"torch_{name}"] is not None for entry in told):
                    torch = told[-1][f"torch_{name}"] - told[0][f"torch_{name}"]
                    grown |= {f"torch_{name}": torch, f"over_{name}": ours / max(1, torch)}
            growth[f"{kind} {mode}"] = grown
    return {
        "cases": len(done),
        "not_as_wanted": [
            f"{found['size']} {found['type']} {found['mode']}: A/A or the injected 3 % not as wanted"
            for found in done
            if not found["summary"]["as_wanted"]
        ],
        "failed": [
            f"{found['size']} {found['type']} {found['mode']}: {found['failed']}"
            for found in cases
            if "failed" in found
        ],
        "median_seconds": medians,
        "times_as_fast_as_eager": faster,
        "memory_growth": growth,
    }


def energy_scenario(seconds: float) -> Scenario:
    """One measurement with memory and energy, in about so many seconds: rest and load take half of it each."""
    longest = min(12.0, max(3.0, seconds / 4))
    return SEARCH.model_copy(
        update={"energy_seconds": longest, "memory_runs": 1, "max_seconds": min(60.0, max(3.0, seconds / 3))}
    )


def ratio(found: Measurement) -> dict[str, Any]:
    """What one comparison says."""
    assert found.ratio is not None  # the caller looked
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
