"""Whether kernels like some widths better: two layers with every hidden width from 97 to 128 between them.

    taskset -c 1 python benchmarks/round_to.py [--rounds 40] [--out FILE]

Products are 256 -> width -> 256 for 128 rows, convolutions 64 -> width -> 64 channels, 3 x 3 on 28 x 28; in float32,
and in int8 as the dialect `ort-cpu` writes it. One thread. All widths of a case are run in random order, again and
again; what counts is the least CPU time of a call. `rounded_up` of a multiple m: the mean, over all widths that are no
multiple of m, of the time at the next multiple over the time at the width. Up to 1 rounding up to m is free or better
than that; `proportional` is what it would be if time were proportional to width, and where `rounded_up` is no less than
that m does not matter. `liked` is what `autotune.techniques.multiples` says of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.calibration import Range
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.recipe import Recipe
from autotune.techniques.multiples import Word, liked
from autotune.techniques.quantize import Quantize
from hwprofiles.device import open_device
from hwprofiles.registry import find_target

RESULT = Path(__file__).parent / "results" / "round_to.json"
WIDTHS = range(97, 129)
MULTIPLES = (4, 8, 16, 32)
# Case -> operator, the choice of both layers, and the word that `multiples` has for it.
CASES: dict[str, tuple[str, str, Word]] = {
    "product, float32": ("MatMul", "none", "float32"),
    "product, int8": ("MatMul", "int8-dynamic", "int8"),
    "convolution, float32": ("Conv", "none", "float32"),
    "convolution, int8": ("Conv", "int8-static", "int8"),
}


def model_of(op: str, width: int) -> onnx.ModelProto:
    """Two layers with `width` channels or features between them, and a Relu."""
    random_numbers = np.random.default_rng(width)
    outside, shape = (256, [128, 256]) if op == "MatMul" else (64, [1, 64, 28, 28])
    shapes = [(outside, width), (width, outside)]
    if op == "Conv":
        shapes = [(width, outside, 3, 3), (outside, width, 3, 3)]
    attributes: dict[str, Any] = {"pads": [1, 1, 1, 1]} if op == "Conv" else {}
    nodes = [
        helper.make_node(op, ["x", "first"], ["a"], name="first", **attributes),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node(op, ["b", "second"], ["y"], name="second", **attributes),
    ]
    weights = [
        numpy_helper.from_array(random_numbers.normal(size=each).astype(np.float32) / 16, name)
        for name, each in zip(("first", "second"), shapes, strict=True)
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "two", value[:1], value[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def session_of(op: str, choice: str, width: int) -> ort.InferenceSession:
    """The model with both layers in a format, opened for one thread."""
    ingested = load_model(model_of(op, width))
    layers = ingested.inspection.layers
    made = Assembler(ingested.model, layers, OrtCpu(), {"quantize": Quantize()})
    made.ranges[Recipe().digest] = {name: Range(-8.0, 8.0) for name in made.calibration_tensors(Recipe())}
    content = made.assemble(Recipe({"quantize": dict.fromkeys((layer.name for layer in layers), choice)}))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def timed(op: str, choice: str, rounds: int) -> dict[int, float]:
    """Width -> seconds of CPU of one call, the least of all."""
    sessions = {width: session_of(op, choice, width) for width in WIDTHS}
    shape = (128, 256) if op == "MatMul" else (1, 64, 28, 28)
    feeds = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    least = dict.fromkeys(WIDTHS, float("inf"))
    order = random.Random(0)
    for _ in range(rounds):
        for width in order.sample(list(WIDTHS), len(WIDTHS)):
            session = sessions[width]
            session.run(None, feeds)  # what another width has left in the caches
            for _ in range(5):
                begun = time.process_time_ns()
                session.run(None, feeds)
                least[width] = min(least[width], (time.process_time_ns() - begun) / 1e9)
    return least


def rounded_up(seconds: Mapping[int, float], multiple: int) -> dict[str, float]:
    """Time at the next multiple over the time at a width, and what it is in proportion; means over the widths."""
    others = [width for width in seconds if width % multiple]
    up = [-(-width // multiple) * multiple for width in others]
    return {
        "rounded_up": mean([seconds[there] / seconds[here] for here, there in zip(others, up, strict=True)]),
        "proportional": mean([there / here for here, there in zip(others, up, strict=True)]),
    }


def mean(values: Sequence[float]) -> float:
    """To three digits."""
    return round(sum(values) / len(values), 3)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_device(find_target("local"), work=Path(folder)) as device:
        fingerprint = device.fingerprint
    results: dict[str, Any] = {}
    for label, (op, choice, word) in CASES.items():
        seconds = timed(op, choice, arguments.rounds)
        results[label] = {
            "choice": choice,
            "liked": liked(fingerprint, {word}).multiple,
            "multiples": {str(multiple): rounded_up(seconds, multiple) for multiple in MULTIPLES},
            "cpu_ms": {str(width): round(1e3 * least, 4) for width, least in seconds.items()},
        }
        said = ", ".join(f"{m}: {each['rounded_up']:.3f}" for m, each in results[label]["multiples"].items())
        print(f"{label:22} liked {results[label]['liked']:2}; time at the next multiple of {said}", flush=True)
    record = {
        "benchmark": "round_to",
        "command": f"python benchmarks/round_to.py --rounds {arguments.rounds}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("onnx", "onnxruntime", "numpy")},
        "python": platform.python_version(),
        "cpu": fingerprint.cpu_model,
        "isa": list(fingerprint.isa),
        "cores_used": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "rounds": arguments.rounds,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
