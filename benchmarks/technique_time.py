"""Time to apply each technique to MiniLM (22 million parameters): every layer at its middle choice.

    python benchmarks/technique_time.py [--runs 3] [--techniques NAME ...] [--out FILE]

Cold: an empty weight bank, so everything is computed. Warm: another assembler with the bank that the cold run has left
on disk, as a later study or a trial has it. Each is from the loaded model to the bytes of the artifact, the survey
included; seconds of CPU of this process and of the wall clock, least of `--runs`. The moments that techniques read are
collected once before, on 32 calibration inputs of the study `spam`, and told beside. The study says what it needs;
`HW_AUTOTUNE_SPAM_DATA` names the folder with the mails. Use one core, `taskset -c 1`, for figures that compare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from autotune import plugins
from autotune.compress import calibration, moments
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import Ingested, load_model
from autotune.config import load_study, load_workload
from autotune.layers import Layer
from autotune.recipe import Recipe

RESULT = Path(__file__).parent / "results" / "technique_time.json"
SAMPLES = 32
# Label -> technique and its options.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "simplify": ("simplify", {}),
    "prune": ("prune", {}),
    "equalise": ("equalise", {}),
    "equalise, insert": ("equalise", {"insert": True}),
    "factorize": ("factorize", {}),
    "factorize, plain": ("factorize", {"method": "plain"}),
    "sparsify": ("sparsify", {}),
    "sparsify, magnitude": ("sparsify", {"method": "magnitude"}),
    "quantize w4-b32": ("quantize", {"choices": ["w4-b32"]}),
    "quantize w4-b32, gptq": ("quantize", {"choices": ["w4-b32"], "rounding": "gptq"}),
    "quantize w8-load": ("quantize", {"choices": ["w8-load"]}),
    "quantize w8-load, gptq": ("quantize", {"choices": ["w8-load"], "rounding": "gptq"}),
    "quantize int8-dynamic": ("quantize", {"choices": ["int8-dynamic"]}),
    "quantize int8-dynamic, gptq": ("quantize", {"choices": ["int8-dynamic"], "rounding": "gptq"}),
    "quantize int8-static": ("quantize", {"choices": ["int8-static"]}),
}


def activations(
    model: bytes, data: list[Mapping[str, Any]], wanted: tuple[str, ...]
) -> Iterator[dict[str, np.ndarray]]:
    """The wanted float activations of each input."""
    probe = onnx.load_from_string(model)
    there = {value.name for value in (*probe.graph.output, *probe.graph.input)}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for feed in data:
        seen = dict(zip(names, session.run(names, dict(feed)), strict=True)) | {
            k: np.asarray(v) for k, v in feed.items()
        }
        yield {name: seen[name] for name in wanted if seen[name].dtype == np.float32}


class Subject:
    """The model, and what its layers read."""

    def __init__(self, folder: Path) -> None:
        workload = load_workload(load_study("spam"))
        self.data: list[Mapping[str, Any]] = list(workload.calibration)[:SAMPLES]
        self.ingested: Ingested = load_model(
            workload.model, example_inputs=workload.example_inputs, dynamic_axes=workload.dynamic_axes
        )
        plain = self.assembler({}, None)
        model = plain.assemble(Recipe())
        (self.moments, self.collecting) = timed(
            lambda: moments.collect(
                plain.source, lambda wanted: activations(model, self.data, wanted), folder / "moments"
            )
        )
        wanted = plain.calibration_tensors(Recipe())
        statistics = calibration.collect(lambda: activations(model, self.data, wanted))
        self.ranges = {name: each.range("minmax") for name, each in statistics.items()}

    def assembler(self, techniques: Mapping[str, Any], bank: Path | None) -> Assembler:
        return Assembler(self.ingested.model, self.ingested.inspection.layers, OrtCpu(), techniques, bank_folder=bank)

    def apply(self, name: str, options: Mapping[str, Any], bank: Path) -> tuple[dict[str, str], bytes]:
        """From the loaded model to an artifact: (decisions, bytes)."""
        technique = plugins.load("hw_autotune.techniques", name)(**options)
        assembler = self.assembler({name: technique}, bank)
        assembler.ranges[Recipe().digest] = self.ranges
        assembler.tell_moments(self.moments)
        technique.survey(assembler.original())

        class Everything:
            def supports(self, layer: Layer, choice: str) -> bool:
                return assembler.offers(layer, choice)

        if technique.scope == "graph":
            decisions = dict(technique.uniform({})[0][1])
        else:
            offered = {n: technique.choices(layer, Everything()) for n, layer in assembler.source.layers.items()}
            decisions = {layer: choices[len(choices) // 2] for layer, choices in offered.items() if choices}
        return decisions, assembler.assemble(Recipe({name: decisions}))


def timed(what: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = what()
    return result, {"cpu_s": round(time.process_time() - cpu, 3), "wall_s": round(time.perf_counter() - wall, 3)}


def least(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: min(each[key] for each in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--techniques", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hw-autotune-benchmark-") as text:
        subject = Subject(Path(text))
        print(f"moments of {len(subject.moments)} layers on {len(subject.data)} inputs: {subject.collecting}")
        for label in arguments.techniques:
            name, options = CASES[label]
            cold, warm = [], []
            for _ in range(arguments.runs):
                with tempfile.TemporaryDirectory(dir=text) as folder:
                    bank = Path(folder) / "bank"
                    (decisions, first), seconds = timed(lambda: subject.apply(name, options, bank))  # noqa: B023
                    cold.append(seconds)
                    (_, second), seconds = timed(lambda: subject.apply(name, options, bank))  # noqa: B023
                    warm.append(seconds)
                    assert first == second
            choices = sorted(set(decisions.values()))
            results[label] = {
                "layers": len(decisions), "choices": choices, "artifact_bytes": len(first),
                "cold": least(cold), "warm": least(warm),
            }  # fmt: skip
            print(
                f"{label:28} {len(decisions):3} layers, {', '.join(choices):28} "
                f"cold {least(cold)['cpu_s']:7.2f} s, warm {least(warm)['cpu_s']:6.2f} s of CPU",
                flush=True,
            )
    named = [] if arguments.techniques == list(CASES) else ["--techniques", *arguments.techniques]
    record = {
        "benchmark": "technique_time",
        "command": shlex.join(["python", "benchmarks/technique_time.py", "--runs", str(arguments.runs), *named]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("onnx", "onnxruntime", "numpy", "scipy")},
        "python": platform.python_version(),
        "cores_used": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "runs": arguments.runs,
        "moments": {"layers": len(subject.moments), "samples": len(subject.data), **subject.collecting},
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
