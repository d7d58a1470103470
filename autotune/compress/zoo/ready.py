"""A technique that has looked at a model of the zoo, and what must be true of whatever plan it makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.plan import Source
from autotune.compress.zoo.subject import Subject, ranges_of
from autotune.errors import UsageError
from autotune.layers import Layer, Skipped
from autotune.techniques.matrices import as_matrix
from autotune.techniques.protocol import Technique
from autotune.techniques.quantize import Quantize

Decisions = dict[str, str]
Offers = dict[str, tuple[str, ...]]


class Reference(Protocol):
    """Computes a model in float64."""

    def __call__(
        self, model: onnx.ModelProto, feed: Mapping[str, np.ndarray], outputs: Iterable[str], /
    ) -> Mapping[str, np.ndarray]:
        """The named outputs."""
        ...

    def __hash__(self) -> int: ...


class Everything:
    """Capabilities of a target that runs all that the dialect can write."""

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler

    def supports(self, layer: Layer, choice: str) -> bool:
        try:
            return self._assembler.offers(layer, choice)
        except UsageError:
            return False  # no numeric format


class Ready:
    """A technique that has looked at a model, as a study has it before the first trial."""

    def __init__(
        self,
        technique: Technique,
        on: Subject,
        dialect: Dialect,
        bank: Path | None,
        moments: bool,
        checkpoints: Path | None,
    ) -> None:
        """`moments`: tell them although the technique does not ask, as another of the same study may."""
        self.technique, self.subject = technique, on
        layers = on.ingested.inspection.layers
        techniques: dict[str, Technique] = {"quantize": Quantize(), technique.name: technique}
        self.assembler = Assembler(
            on.ingested.model, layers, dialect, techniques, bank_folder=bank, checkpoints=checkpoints
        )
        self.assembler.calibrate_with = lambda structure: ranges_of(on, self.assembler, structure)
        if moments or technique.needs_moments:
            self.assembler.tell_moments(on.moments)
        before = self.assembler.original().to_bytes()
        plan = self.assembler.original()
        self.skipped: Sequence[Skipped] = tuple(technique.survey(plan))
        assert plan.to_bytes() == before, "survey has edited the plan"
        able = Everything(self.assembler)
        self.offers: Offers = {layer.name: tuple(technique.choices(layer, able)) for layer in layers}
        self.uniform = technique.uniform({} if technique.scope == "graph" else self.offers)

    def recipes(self) -> list[tuple[str, Decisions]]:
        """What the technique itself would try first; at least every choice on all layers that have it."""
        made = [(label, dict(decisions)) for label, decisions in self.uniform if decisions]
        for choice in dict.fromkeys(itertools.chain.from_iterable(self.offers.values())):
            decisions = {name: choice for name, choices in self.offers.items() if choice in choices}
            if decisions not in [other for _, other in made]:
                made.append((choice, decisions))
        return made


def check_layers(source: Source) -> None:
    """What a plan says about its layers must be true of its graph."""
    nodes = {node.name: node for node in source.nodes}
    assert len(nodes) == len(source.nodes), "two nodes have one name"
    for name, layer in source.layers.items():
        assert name == layer.name
        assert layer.weight in source.tensors, f"layer {name}: its weight {layer.weight} is not there"
        tensor = source.tensors[layer.weight]
        assert tuple(tensor.dims) == layer.shape, f"layer {name}: weight is {tuple(tensor.dims)}, told as {layer.shape}"
        assert tensor.data_type == onnx.TensorProto.FLOAT, f"layer {name}: weight is not float32"
        assert layer.parameters == int(np.prod(layer.shape)), f"layer {name}: {layer.parameters} parameters told"
        assert layer.nodes, f"layer {name} has no nodes"
        for node in layer.nodes:
            assert node in nodes, f"layer {name}: node {node} is not there"
            assert nodes[node].op_type == layer.op, f"layer {name}: node {node} is a {nodes[node].op_type}"
            assert layer.weight in nodes[node].input, f"layer {name}: node {node} does not read its weight"
            if layer.bias is not None:
                assert list(nodes[node].input[2:]) == [layer.bias], f"layer {name}: node {node} has another bias"
            if layer.op == "Conv":
                group = next((a.i for a in nodes[node].attribute if a.name == "group"), 1)
                assert group == layer.group, f"layer {name}: {layer.group} groups told, {group} there"
    for name, moments in source.moments.items():
        if name not in source.layers:
            continue
        groups, _, inputs = as_matrix(source.layers[name], np.empty(source.layers[name].shape, np.float32)).shape
        assert moments.gram.shape == (groups, inputs, inputs), f"layer {name}: its moments are of other inputs"
        assert moments.mean.shape == (groups, inputs), f"layer {name}: its moments are of other inputs"


@cache
def answers(reference: Reference, on: Subject) -> tuple[Mapping[str, np.ndarray], ...]:
    """The original's, as it was built, to each input."""
    return tuple(
        reference(on.built, feed, list(expected)) for feed, expected in zip(on.given, on.expected, strict=True)
    )


def constants_of(artifact: bytes) -> int:
    """Bytes of all constants."""
    return sum(len(tensor.raw_data) for tensor in onnx.load_from_string(artifact).graph.initializer)
