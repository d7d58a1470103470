"""Pruned models against the original with zeros in the weights that read what is gone, both run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.compress.plan import Plan
from autotune.layers import Layer, Skipped
from autotune.recipe import Recipe
from autotune.techniques.prune import Prune, Unit
from autotune.techniques.simplify import Simplify
from tests.unit import zoo

Feeds = dict[str, np.ndarray]


class Anything:
    """Capabilities of a target that runs whatever it is given."""

    def supports(self, layer: Layer, choice: str) -> bool:
        return True


@dataclass
class Case:
    """A model that was surveyed."""

    made: Assembler
    prune: Prune
    skipped: dict[str, Skipped]

    @classmethod
    def of(cls, model: onnx.ModelProto, **options: object) -> Case:
        ingested = load_model(model)
        prune = Prune(**options)  # type: ignore[arg-type]
        techniques = {"prune": prune, "simplify": Simplify()}
        made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), techniques)
        skipped = prune.survey(made.original())
        return cls(made, prune, {entry.name: entry for entry in skipped})

    @property
    def units(self) -> dict[str, Unit]:
        return {unit.layer: unit for unit in self.prune.units() if unit.kind != "blocks"}

    @property
    def blocks(self) -> dict[str, Unit]:
        return {unit.layer: unit for unit in self.prune.units() if unit.kind == "blocks"}

    def plan(self, decisions: Mapping[str, str]) -> Plan:
        """The plan with the decisions carried out."""
        plan = self.made.original()
        self.prune.apply(plan, decisions)
        return plan

    def pruned(self, decisions: Mapping[str, str]) -> bytes:
        return self.made.assemble(Recipe({"prune": decisions}))

    def original(self) -> bytes:
        return self.made.assemble(Recipe())


def run(model: bytes, feeds: Feeds) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def left_of(case: Case, layer: Layer, pruned: onnx.ModelProto) -> tuple[np.ndarray, ...]:
    """For each axis of a layer's weight which positions are left, found by looking for the weight's values: nothing
    that the technique says about itself is used. Random weights have no value twice."""
    before = numpy_helper.to_array(case.made.source.tensors[layer.weight])
    after = next(numpy_helper.to_array(t) for t in pruned.graph.initializer if t.name == layer.weight)
    there = np.isin(before, after)
    assert there.sum() == after.size, layer.name
    axes = range(before.ndim)
    left = tuple(there.any(axis=tuple(other for other in axes if other != axis)) for axis in axes)
    np.testing.assert_array_equal(before[np.ix_(*left)], after)  # in the same order
    return left


def zeroed(case: Case, pruned: bytes) -> bytes:
    """The original, with zeros where layers read what is gone."""
    model = onnx.load_from_string(case.original())
    small = onnx.load_from_string(pruned)
    names = {tensor.name for tensor in small.graph.initializer}
    for layer in case.made.source.layers.values():
        if layer.op == "Gather" or layer.weight not in names:
            continue
        reads = {"Conv": 1, "ConvTranspose": 0}.get(layer.op, 1 - layer.output_axis)
        left = left_of(case, layer, small)[reads]
        for tensor in model.graph.initializer:
            if tensor.name == layer.weight:
                array = np.array(numpy_helper.to_array(tensor))
                array[(slice(None),) * reads + (~left,)] = 0
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


def check(case: Case, decisions: Mapping[str, str], *, exact: bool = True, sizes: tuple[int, ...] = (1, 3)) -> bytes:
    """Carry out decisions; valid, smaller, same shapes, finite, and equal to zeros in the original where `exact`."""
    pruned = case.pruned(decisions)
    model = onnx.load_from_string(pruned)
    onnx.checker.check_model(model, full_check=True)
    assert len(pruned) < len(case.original())
    reference = zeroed(case, pruned) if exact else case.original()
    for size in sizes:
        feeds = zoo.feeds(model, size=size, seed=size)
        expected, found = run(reference, feeds), run(pruned, feeds)
        for name, value in found.items():
            assert value.shape == expected[name].shape
            assert np.isfinite(value).all()
            if exact:
                scale = max(1.0, float(np.abs(expected[name]).max()))
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=2e-5 * scale)
    plan = case.plan(decisions)
    for layer in plan.layers.values():
        assert layer.shape == plan.weight(layer).shape, layer.name
        assert layer.parameters == plan.weight(layer).size
        assert layer.bias is None or layer.bias in plan.tensors
    return pruned
