"""A model of the zoo made ready once: ingested, with inputs of two sizes, what it answers to them and what is read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from autotune.compress import calibration, moments
from autotune.compress.assembly import Assembler
from autotune.compress.calibration import Range
from autotune.compress.ingest import Ingested, load_model
from autotune.compress.plan import Source
from autotune.compress.zoo.catalogue import build
from autotune.compress.zoo.graph import Feeds, feeds
from autotune.recipe import Recipe
from autotune.techniques.moments import Moments

SIZES = (
    {"batch": 1, "seq": 7, "height": 8, "width": 12, "time": 16},
    {"batch": 3, "seq": 4, "height": 13, "width": 10, "time": 21},
)
_CALIBRATION_SEEDS = range(100, 103)


@dataclass(frozen=True, eq=False)
class Subject:
    """Inputs of the sizes of `SIZES`, and the original's answers; `built` is the model before it was ingested."""

    built: onnx.ModelProto
    ingested: Ingested
    given: tuple[Feeds, ...]
    expected: tuple[Feeds, ...]

    def compared(self, artifact: bytes) -> Iterator[tuple[Feeds, Feeds, Feeds]]:
        """Input, answer of the original, answer of the artifact."""
        session = _session(artifact)
        for feed, expected in zip(self.given, self.expected, strict=True):
            yield feed, expected, _run(session, feed)

    @cached_property
    def constants(self) -> int:
        """Bytes of the original's constants."""
        return sum(len(tensor.raw_data) for tensor in self.ingested.model.graph.initializer)

    @cached_property
    def calibration(self) -> tuple[Feeds, ...]:
        """Other inputs, of both sizes."""
        model = self.ingested.model
        return tuple(feeds(model, sizes=sizes, seed=seed) for seed in _CALIBRATION_SEEDS for sizes in SIZES)

    @cached_property
    def moments(self) -> Mapping[str, Moments]:
        """What every layer reads on the calibration inputs."""
        return moments_of(self, Source.of(self.ingested.model, self.ingested.inspection.layers))


@cache
def subject(name: str, opset: int = 17) -> Subject:
    """A model of the zoo; made once per process."""
    model = build(name, opset)
    given = tuple(feeds(model, sizes=sizes, seed=seed) for seed, sizes in enumerate(SIZES))
    session = _session(model.SerializeToString())
    return Subject(model, load_model(model), given, tuple(_run(session, feed) for feed in given))


def ranges_of(on: Subject, assembler: Assembler, structure: Recipe) -> dict[str, Range]:
    """Activation ranges of a structure on the calibration inputs."""
    wanted = assembler.calibration_tensors(structure)
    statistics = calibration.collect(lambda: activations(on, assembler.assemble(structure), wanted))
    return {name: each.range("minmax") for name, each in statistics.items()}


def moments_of(on: Subject, source: Source) -> dict[str, Moments]:
    """What the layers of a structure read on the calibration inputs."""
    graph = onnx.GraphProto(name="moments", node=source.nodes, initializer=source.tensors.values())
    graph.input.extend(source.inputs)
    graph.output.extend(source.outputs)
    model = onnx.ModelProto(ir_version=source.ir_version, graph=graph)
    model.opset_import.extend(onnx.helper.make_opsetid(domain, number) for domain, number in source.opsets.items())
    data = model.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        found = moments.collect(source, lambda wanted: activations(on, data, wanted), Path(folder))
        return {name: Moments(np.array(m.gram), np.array(m.mean), m.rows) for name, m in found.items()}


def activations(on: Subject, model: bytes, wanted: Iterable[str]) -> Iterator[Feeds]:
    """The wanted float activations of each calibration input."""
    names = list(wanted)
    probe = onnx.load_from_string(model)
    there = {value.name for value in (*probe.graph.output, *probe.graph.input)}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    session = _session(probe.SerializeToString())
    for feed in on.calibration:
        seen = _run(session, feed) | feed
        yield {name: seen[name] for name in names if seen[name].dtype == np.float32}


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feed: Feeds) -> Feeds:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))
