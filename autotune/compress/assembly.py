"""Model + recipe -> bytes of an artifact. Everything slow is done once here; a trial only assembles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx

from autotune.compress.bank import WeightBank
from autotune.compress.calibration import Method, Range, Statistics
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.plan import Plan, Source
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.techniques.protocol import Technique

_STAGES = ("structure", "precision")


class Assembler:
    """Builds artifacts of one model in one dialect.

    `statistics` are those of calibration (see `calibration.collect`); None until they are needed: a recipe with
    `int8-static` then fails with a clear message.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        layers: Iterable[Layer],
        dialect: Dialect,
        techniques: Mapping[str, Technique],
        *,
        bank_folder: Path | None = None,
    ) -> None:
        self.source = Source.of(model, layers)
        self.dialect = dialect
        self.techniques = dict(techniques)
        self.ranges: dict[str, Range] = {}
        self._nodes = {node.name: node for node in self.source.nodes}
        self._bank = WeightBank(dialect.name, dialect.pack, bank_folder)

    def calibrate(self, statistics: Mapping[str, Statistics], method: Method, percentile: float) -> None:
        """Fix the activation ranges of `int8-static`."""
        self.ranges = {name: s.range(method, percentile) for name, s in statistics.items()}

    def calibration_tensors(self) -> tuple[str, ...]:
        """Activations whose ranges static quantisation may need: inputs and outputs of layers, behind Relu and Clip."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.source.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        wanted: dict[str, None] = {}
        for layer in self.source.layers.values():
            if layer.op == "Gather":
                continue
            for name in layer.nodes:
                node = self._nodes[name]
                wanted.setdefault(node.input[0])
                if layer.op == "Conv":
                    wanted.setdefault(node.output[0])
                    following = [r for r in readers.get(node.output[0], []) if r.op_type in ("Relu", "Clip")]
                    wanted.update(dict.fromkeys(r.output[0] for r in following))
        return tuple(wanted)

    def offers(self, layer: Layer, choice: str) -> bool:
        """Whether the dialect can write `choice` for this layer."""
        return all(self.dialect.offers(layer, choice, self._nodes[node]) for node in layer.nodes)

    def weight_bytes(self, layer: Layer, choice: str) -> int:
        """Exact bytes of the layer's constants in the artifact under `choice` ("none": as in the model)."""
        weight = self.source.tensors[layer.weight]
        if choice == "none":
            return weight.ByteSize()
        return sum(tensor.ByteSize() for tensor in self._bank.get(layer, choice, weight))

    def assemble(self, recipe: Recipe) -> bytes:
        """The artifact's bytes; equal recipes give equal bytes.

        Raises `KeyError` for an unknown technique or layer, `TrialFailure` where a decision cannot be written.
        """
        plan = Plan(source=self.source, ranges=self.ranges, packed=self._packed, write_with=self.dialect.write)
        for stage in _STAGES:
            for name in recipe:
                technique = self.techniques[name]
                if technique.stage == stage:
                    technique.apply(plan, recipe[name])
        return plan.to_bytes()

    def expected_kernels(self, recipe: Recipe) -> dict[str, frozenset[str]]:
        """Layer name -> kernels that may run under the recipe."""
        decisions = recipe["quantize"]
        return {
            layer.name: self.dialect.kernels(layer.op, decisions.get(layer.name, "none"))
            for layer in self.source.layers.values()
        }

    def _packed(self, layer: Layer, choice: str) -> Sequence[onnx.TensorProto]:
        return self._bank.get(layer, choice, self.source.tensors[layer.weight])
