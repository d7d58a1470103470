"""An assembler that knows what its layers read, from a few random inputs; and models with something to find there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from autotune.compress import calibration, moments
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.recipe import Recipe
from autotune.techniques.quantize import ALL_CHOICES, Quantize
from tests.unit import zoo
from tests.unit.compress.assembling import Feeds, run


def observed(model: onnx.ModelProto, data: Sequence[Feeds], folder: Path, quantize: Quantize) -> Assembler:
    """Ranges and moments come from `data`."""
    ingested = load_model(model)
    made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), {"quantize": quantize})
    original = made.assemble(Recipe())

    def runs(wanted: tuple[str, ...]) -> Iterable[Mapping[str, np.ndarray]]:
        probe = onnx.load_from_string(original)
        there = {v.name for v in [*probe.graph.output, *probe.graph.input]}
        probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in there)
        for feeds in data:
            seen = run(probe, feeds, folder).outputs | feeds
            yield {name: seen[name] for name in wanted if seen[name].dtype == np.float32}

    made.tell_moments(moments.collect(made.source, runs, folder / "moments"))
    wanted = made.calibration_tensors(Recipe())
    made.calibrate(Recipe(), calibration.collect(lambda: runs(wanted)), "minmax", 99.99)
    return made


def all_offered(made: Assembler) -> dict[str, list[str]]:
    """Layer -> choices that can be written, those on request too."""
    return {name: [c for c in ALL_CHOICES if made.offers(layer, c)] for name, layer in made.source.layers.items()}


def wide(inputs: int = 96, outputs: int = 40, *, with_bias: bool = True) -> onnx.ModelProto:
    """MatMul (and Add), then a Gemm with its own bias."""
    nodes = [
        zoo.node("MatMul", ["x", "first.weight"], ["m"], name="first"),
        zoo.node("Add", ["m", "first.bias"], ["a"], name="first.add")
        if with_bias
        else zoo.node("Neg", ["m"], ["a"], name="first.neg"),
        zoo.node("Gemm", ["a", "second.weight", "second.bias"], ["y"], name="second", transB=1),
    ]
    constants = {
        "first.weight": zoo.weight(inputs, outputs),
        "first.bias": zoo.weight(outputs),
        "second.weight": zoo.weight(24, outputs),
        "second.bias": zoo.weight(24),
    }
    if not with_bias:
        del constants["first.bias"]
    return zoo.model_of(nodes, [zoo.floats("x", "batch", inputs)], ["y"], constants)


def correlated(inputs: int, *, batches: int = 4, rows: int = 64, outliers: int = 0, seed: int = 0) -> list[Feeds]:
    """Inputs x of mean 0.5 whose columns go along with each other; the first `outliers` are 60 times as large."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(1).normal(size=(inputs, inputs)) / np.arange(1, inputs + 1) ** 0.8
    size = np.where(np.arange(inputs) < outliers, 60.0, 1.0)
    made = ((rng.normal(size=(rows, inputs)) @ mix.T + 0.5) * size for _ in range(batches))
    return [{"x": x.astype(np.float32)} for x in made]
