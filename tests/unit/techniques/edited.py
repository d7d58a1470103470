"""Assemblers with structural techniques, told what their layers read on a few inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from autotune.compress import moments
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.techniques.protocol import Technique
from autotune.techniques.quantize import Quantize
from tests.unit import zoo

Feeds = Mapping[str, np.ndarray]


class Anything:
    """Capabilities of a target that runs whatever it is given."""

    def supports(self, layer: Layer, choice: str) -> bool:
        return True


def infer(model: onnx.ModelProto | bytes, feeds: Feeds, wanted: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Outputs (and `wanted` tensors) in ONNX Runtime, nothing fused, one thread."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    there = {value.name for value in proto.graph.output} | {value.name for value in proto.graph.input}
    extended = onnx.ModelProto()
    extended.CopyFrom(proto)
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(extended.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    return found | {name: feeds[name] for name in wanted if name in feeds}


def edited(
    model: onnx.ModelProto,
    technique: Technique,
    folder: Path,
    data: Sequence[Feeds] | None = None,
    *,
    tell: bool = True,
) -> Assembler:
    """An assembler of `model` with one structural technique and `quantize`; `tell` it moments of `data`."""
    ingested = load_model(model)
    techniques = {technique.name: technique, "quantize": Quantize()}
    made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), techniques, bank_folder=folder / "bank")
    inputs = data if data is not None else [zoo.feeds(model, size=6, seed=seed) for seed in range(3)]

    def runs(wanted: tuple[str, ...]) -> Iterable[Mapping[str, np.ndarray]]:
        plain = made.assemble(Recipe())
        return (infer(plain, feeds, wanted) for feeds in inputs)

    if tell:
        made.tell_moments(moments.collect(made.source, runs, folder / "moments"))
    return made


def choices(made: Assembler, technique: Technique) -> dict[str, tuple[str, ...]]:
    """Layer -> what the technique offers it, after its survey."""
    technique.survey(made.original())
    offered = {name: tuple(technique.choices(layer, Anything())) for name, layer in made.source.layers.items()}
    return {name: each for name, each in offered.items() if each}


def weights(made: Assembler, recipe: Recipe) -> dict[str, np.ndarray]:
    """Constants of the artifact by name."""
    graph = onnx.load_from_string(made.assemble(recipe)).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
