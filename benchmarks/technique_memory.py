"""Peak memory of compressing a model of 1 GiB of random weights, per technique, as a ratio of the model's size.

    python benchmarks/technique_memory.py [--width 4096] [--layers 16] [--techniques NAME ...] [--out FILE]

The model: 16 products of width x width float32 with Relu between them, in one file of external data. Each technique
runs in a fresh process with its defaults, and does what a study does before and in a trial: load the model, collect
moments where the technique wants them (the runtime that reads the activations is a process of its own, as in a study),
survey, choices, then every layer at the middle choice, assembled and written to disk. Peaks are the resident set
(`VmHWM`, files that are mapped included), reset after each step; what the interpreter and its libraries take is told
beside. The scratch files lie in `TMPDIR`, which should be a disk and not memory. Goal: 1.5 times the model's size. Ends
with 1 where a technique takes more. Needs about 2 GiB of RAM and 5 GiB of disk; a minute or two of CPU per technique,
and for `factorize` a quarter of a minute more for each matrix of 4096 x 4096. Results of other techniques that are in
the file already stay.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

GOAL = 1.5
LAYERS = 16  # of 64 MiB at the width of 4096
RESULT = Path(__file__).parent / "results" / "technique_memory.json"
TECHNIQUES = ("load", "simplify", "prune", "equalise", "factorize", "sparsify", "quantize")  # "load": no technique
MIB = 1 << 20


def generate(folder: Path, width: int, layers: int) -> Path:
    """The model, one layer in memory at a time."""
    draw = np.random.default_rng(0)
    nodes, weights, current, size = [], [], "x", 4 * width * width
    with (folder / "weights.bin").open("wb") as file:
        for index in range(layers):
            weight = draw.standard_normal((width, width), np.float32)
            weight *= np.float32((2 / width) ** 0.5)
            file.write(weight.tobytes())
            tensor = TensorProto(name=f"layer{index}.weight", data_type=TensorProto.FLOAT, dims=weight.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", index * size), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [current, tensor.name], [f"m{index}"], name=f"layer{index}"))
            nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"], name=f"relu{index}"))
            current = f"r{index}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])
    y = helper.make_tensor_value_info(current, TensorProto.FLOAT, ["rows", width])
    graph = helper.make_graph(nodes, "large", [x], [y], weights)
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )
    return path


class Peaks:
    """Peak of the resident set of this process per step, bytes."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._begun = time.perf_counter()
        self.next("imports")

    def next(self, step: str) -> None:
        """What was done since the last call was `step`."""
        gc.collect()
        status = Path("/proc/self/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        now = time.perf_counter()
        kib = {name: int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")}
        self.steps[step] = {
            "peak": kib["VmHWM"], "kept": kib["VmRSS"], "seconds": round(now - self._begun, 1)
        }  # fmt: skip
        self._begun = now
        Path("/proc/self/clear_refs").write_text("5")


def child(technique_name: str, path: Path, folder: Path) -> dict[str, Any]:
    """One technique, as a study does it."""
    from autotune import plugins
    from autotune.compress import moments
    from autotune.compress.assembly import Assembler
    from autotune.compress.dialects.ort_cpu import OrtCpu
    from autotune.compress.ingest import load_model
    from autotune.layers import Layer
    from autotune.recipe import Recipe

    peaks = Peaks()
    ingested = load_model(path)
    peaks.next("load")
    if technique_name == "load":
        return {"steps": peaks.steps}
    technique = plugins.load("hw_autotune.techniques", technique_name)()
    assembler = Assembler(
        ingested.model, ingested.inspection.layers, OrtCpu(), {technique_name: technique}, bank_folder=folder / "bank"
    )
    del ingested

    class Everything:
        def supports(self, layer: Layer, choice: str) -> bool:
            return assembler.offers(layer, choice)

    if technique.needs_moments:
        reader = [sys.executable, __file__, "--read", str(path)]

        def runs(wanted: tuple[str, ...]) -> Iterator[Mapping[str, np.ndarray]]:
            at = folder / "activations.npz"
            subprocess.run([*reader, str(at), *wanted], check=True)
            with np.load(at) as arrays:
                for name in arrays.files:
                    yield {name: arrays[name]}

        assembler.tell_moments(moments.collect(assembler.source, runs, folder / "moments"))
        peaks.next("moments")
    technique.survey(assembler.original())
    peaks.next("survey")
    if technique.scope == "graph":
        decisions = dict(technique.uniform({})[0][1])
    else:
        offered = {n: technique.choices(layer, Everything()) for n, layer in assembler.source.layers.items()}
        decisions = {name: choices[len(choices) // 2] for name, choices in offered.items() if choices}
    recipe = Recipe({technique_name: decisions})
    assembler.structured(assembler.structure(recipe))
    peaks.next("carry out")
    with (folder / "artifact.onnx").open("wb") as file:
        assembler.assemble_to(file, recipe)
        written = file.tell()
    peaks.next("assemble and write")
    return {"steps": peaks.steps, "decisions": decisions, "artifact_bytes": written}


def read(path: Path, target: Path, wanted: list[str]) -> None:
    """The wanted activations of 512 random rows, written to a file."""
    import onnxruntime

    model = onnx.load(path, load_external_data=False)
    given = {value.name for value in model.graph.input} | {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in given)
    probe = path.with_name("probe.onnx")
    probe.write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(probe, options, providers=["CPUExecutionProvider"])
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = np.random.default_rng(1).standard_normal((512, width), np.float32)
    names = [name for name in wanted if name != "x"]
    found: dict[str, Any] = dict(zip(names, session.run(names, {"x": x}), strict=True)) if names else {}
    if "x" in wanted:
        found["x"] = x
    np.savez(target, **found)


def write(arguments: argparse.Namespace, size: int, results: dict[str, Any]) -> None:
    """The result file, as far as it is known."""
    earlier = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    kept = earlier.get("results", {}) if earlier.get("model_bytes") == size and earlier.get("goal") == GOAL else {}
    told = {name: each for name, each in {**kept, **results}.items() if name in TECHNIQUES}
    record = {
        "benchmark": "technique_memory",
        "versions": {name: metadata.version(name) for name in ("onnx", "onnx-ir", "numpy", "scipy")},
        "python": platform.python_version(),
        "model_bytes": size,
        "goal": GOAL,
        "results": {name: told[name] for name in TECHNIQUES if name in told},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def command(arguments: argparse.Namespace, technique: str) -> str:
    sizes = f"--width {arguments.width} --layers {arguments.layers}"
    return f"python benchmarks/technique_memory.py {sizes} --techniques {technique}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096, help="4096 makes 1 GiB")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--techniques", nargs="+", default=list(TECHNIQUES), choices=TECHNIQUES)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=3, metavar=("TECHNIQUE", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, path, folder = arguments.child
        print(json.dumps(child(name, Path(path), Path(folder))))
        return 0
    if arguments.read:
        read(Path(arguments.read[0]), Path(arguments.read[1]), arguments.read[2:])
        return 0
    size = arguments.layers * 4 * arguments.width**2
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hw-autotune-benchmark-") as text:
        path = generate(Path(text), arguments.width, arguments.layers)
        for name in arguments.techniques:
            with tempfile.TemporaryDirectory(dir=text) as folder:
                ran = subprocess.run(
                    [sys.executable, __file__, "--child", name, str(path), folder], capture_output=True, text=True
                )
            if ran.returncode:
                last = (ran.stderr.strip().splitlines() or [f"ended with {ran.returncode}"])[-1]
                results[name] = {"failure": last}
                print(f"{name:10} failed: {last}", flush=True)
                write(arguments, size, results)
                continue
            found = json.loads(ran.stdout.splitlines()[-1])
            found["peak"] = max(step["peak"] for step in found["steps"].values())
            found["ratio"] = round(found["peak"] / size, 2)
            found |= {
                "command": command(arguments, name),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "load_average": os.getloadavg()[0],
            }
            results[name] = found
            steps = ", ".join(f"{step} {each['peak'] / size:.2f}" for step, each in found["steps"].items())
            print(f"{name:10} {found['ratio']:5.2f} times the model's size ({steps})", flush=True)
            write(arguments, size, results)
    return 0 if all(each.get("ratio", np.inf) <= GOAL for each in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
