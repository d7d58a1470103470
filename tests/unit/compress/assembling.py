"""Artifacts of zoo models, run in-process with ONNX Runtime's default options: kernels and outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from autotune.compress import calibration
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.compress.kernels import layer_outcomes
from autotune.recipe import Recipe
from autotune.techniques.quantize import CHOICES, Quantize
from autotune.techniques.simplify import Simplify
from autotune.trial import LayerOutcome
from hwprofiles.measurement import Kernel

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ran:
    """One run of an artifact."""

    outputs: dict[str, np.ndarray]
    kernels: tuple[Kernel, ...]


def run(model: onnx.ModelProto | bytes, feeds: Feeds, folder: Path) -> Ran:
    """Outputs, and the kernels that the profile reports; options as a user's plain InferenceSession has them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = tuple(
        Kernel(
            node=e["name"].removesuffix("_kernel_time"), op=e["args"]["op_name"], provider="", seconds=e["dur"] * 1e-6
        )
        for e in events
        if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")
    )
    return Ran(outputs, kernels)


def assembler_of(model: onnx.ModelProto, feeds: Feeds, folder: Path, structure: Recipe | None = None) -> Assembler:
    """An assembler whose ranges come from one calibration input."""
    ingested = load_model(model)
    techniques = {"simplify": Simplify(), "quantize": Quantize()}
    made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), techniques)
    structure = structure or Recipe()
    wanted = made.calibration_tensors(structure)
    probe = onnx.load_from_string(made.assemble(structure))
    there = {v.name for v in [*probe.graph.output, *probe.graph.input]}
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in there)

    def runs() -> list[Feeds]:
        seen = run(probe, feeds, folder).outputs | feeds
        return [{name: seen[name] for name in wanted if seen[name].dtype == np.float32}]

    made.calibrate(structure, calibration.collect(runs), "minmax", 99.99)
    return made


def offered(made: Assembler) -> dict[str, list[str]]:
    """Layer -> choices the dialect can write."""
    return {name: [c for c in CHOICES if made.offers(layer, c)] for name, layer in made.source.layers.items()}


def outcomes(made: Assembler, recipe: Recipe, data: bytes, ran: Ran) -> dict[str, LayerOutcome]:
    """Layer -> what was asked for and what ran."""
    found = layer_outcomes(
        onnx.load_from_string(data),
        made.layers(recipe),
        recipe["quantize"],
        made.expected_kernels(recipe),
        ran.kernels,
    )
    return {outcome.layer: outcome for outcome in found}
