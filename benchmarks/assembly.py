"""Assembling an artifact from the weight bank against quantising and saving the model afresh, per trial.

    python benchmarks/assembly.py [--out FILE]

Both sides start from a calibrated model and end with a file on the disk, in randomised interleaved pairs. Ours draws
a random per-layer map every time; the other side is `onnxruntime.quantization`: `quantize_static` reading its
calibration cache, and `quantize_dynamic`. Models: a generated encoder of 22 million parameters, and the text
recogniser of the study `ocr` where its package is installed. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from autotune.compress import calibration
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.recipe import Recipe
from autotune.techniques.quantize import CHOICES, Quantize
from hwprofiles.statistics import ratio_interval

PAIRS = 7
RESULT = Path(__file__).parent / "results" / "assembly.json"
Feed = dict[str, np.ndarray]


def encoder() -> tuple[onnx.ModelProto, Feed]:
    """Embedding 30,000 x 384 and six blocks of four 384 x 384 and two 384 x 1,536 products: 22 million parameters."""
    rng = np.random.default_rng(0)
    weights, nodes, current = {}, [], "embedded"
    weights["table"] = rng.normal(size=(30_000, 384)).astype(np.float32)
    nodes.append(helper.make_node("Gather", ["table", "ids"], [current], name="table"))
    for block in range(6):
        for index, (rows, columns) in enumerate([(384, 384)] * 4 + [(384, 1536), (1536, 384)]):
            name = f"block{block}.{index}"
            weights[name] = (rng.normal(size=(rows, columns)) / rows**0.5).astype(np.float32)
            nodes.append(helper.make_node("MatMul", [current, name], [f"{name}.out"], name=name))
            nodes.append(helper.make_node("Tanh", [f"{name}.out"], [f"{name}.tanh"], name=f"{name}.act"))
            current = f"{name}.tanh"
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "s"])],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, [1, "s", 384])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {"ids": rng.integers(0, 30_000, (1, 32))}


def recogniser() -> tuple[onnx.ModelProto, Feed] | None:
    """The model of the study `ocr`, brought to a working opset; None where its package is not installed."""
    from importlib.util import find_spec

    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    picture = np.random.default_rng(0).uniform(-1, 1, (1, 3, 48, 160)).astype(np.float32)
    return load_model(path).model, {"x": picture}


class OneInput(CalibrationDataReader):
    """Gives its input once."""

    def __init__(self, feed: Feed) -> None:
        self._left: list[Feed] = [feed]

    def get_next(self) -> Feed | None:
        return self._left.pop() if self._left else None


def ours(model: onnx.ModelProto, feed: Feed, folder: Path) -> Callable[[int], None]:
    """Assemble a random map and write it; everything that is done once is done before."""
    ingested = load_model(model)
    made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), {"quantize": Quantize()})
    wanted = made.calibration_tensors(Recipe())
    probe = onnx.load_from_string(made.assemble(Recipe()))
    there = {v.name for v in [*probe.graph.output, *probe.graph.input]}
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in there)
    session = onnxruntime.InferenceSession(probe.SerializeToString())
    names = [o.name for o in session.get_outputs()]

    def runs() -> list[Feed]:
        seen = dict(zip(names, session.run(names, feed), strict=True)) | feed
        return [{n: seen[n] for n in wanted if seen[n].dtype == np.float32}]

    made.calibrate(Recipe(), calibration.collect(runs), "minmax", 99.99)
    layers = made.source.layers
    offered = {n: ["none", *(c for c in CHOICES if made.offers(x, c))] for n, x in layers.items()}
    for name, choices in offered.items():
        for choice in choices:
            made.weight_bytes(layers[name], choice)  # fills the bank
    rng = random.Random(0)

    def once(index: int) -> None:
        decisions = {name: rng.choice(choices) for name, choices in offered.items()}
        (folder / f"ours{index}.onnx").write_bytes(made.assemble(Recipe({"quantize": decisions})))

    return once


def theirs_static(model: onnx.ModelProto, feed: Feed, folder: Path) -> Callable[[int], None]:
    """`quantize_static` with its calibration cache filled."""
    cache = folder / "calibration-cache.json"
    options = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}

    def once(index: int) -> None:
        reader = None if cache.exists() else OneInput(feed)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        quantize_static(copy, folder / f"static{index}.onnx", reader, calibration_cache_path=cache, **options)

    once(0)
    return once


def theirs_dynamic(model: onnx.ModelProto, feed: Feed, folder: Path) -> Callable[[int], None]:
    """`quantize_dynamic`."""

    def once(index: int) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        quantize_dynamic(copy, folder / f"dynamic{index}.onnx", per_channel=True, weight_type=QuantType.QInt8)

    once(0)
    return once


def compare(one: Callable[[int], None], other: Callable[[int], None]) -> dict[str, float]:
    """Median seconds of both and the ratio other / one with its 95 % interval, from interleaved pairs."""
    order, log_ratios = random.Random(1), []
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for pair in range(PAIRS):
        sides = [0, 1]
        order.shuffle(sides)
        for side in sides:
            begun = time.perf_counter()
            (one, other)[side](pair)
            seconds[side].append(time.perf_counter() - begun)
        log_ratios.append(float(np.log(seconds[1][-1] / seconds[0][-1])))
    ratio, low, high = ratio_interval(log_ratios, seed=0)
    return {
        "ours_median_s": float(np.median(seconds[0])),
        "theirs_median_s": float(np.median(seconds[1])),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "pairs": PAIRS,
    }


def main() -> None:
    """Measure, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    cases = {"encoder, 22 M parameters": encoder(), "text recogniser, 2.7 M parameters": recogniser()}
    results: dict[str, dict[str, float]] = {}
    for name, case in cases.items():
        if case is None:
            print(f"{name}: skipped, the package rapidocr-onnxruntime is not installed")
            continue
        for label, make in (("quantize_static, cached ranges", theirs_static), ("quantize_dynamic", theirs_dynamic)):
            with tempfile.TemporaryDirectory() as text:
                folder = Path(text)
                found = compare(ours(*case, folder), make(*case, folder))
            results[f"{name}: {label}"] = found
            print(
                f"{name:34} {label:32} {found['theirs_median_s']:.3f} s against {found['ours_median_s']:.3f} s: "
                f"{found['ratio']:.1f} times [{found['ratio_low']:.1f}, {found['ratio_high']:.1f}]"
            )
    record = {
        "command": "python benchmarks/assembly.py",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
