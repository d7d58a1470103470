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


class Assembler:
    """Builds artifacts of one model in one dialect.

    Structural decisions are carried out once per combination and kept; calibration belongs to such a combination. A
    recipe with `int8-static` fails with a clear message where its structure has not been calibrated.
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
        self.ranges: dict[str, dict[str, Range]] = {}  # digest of the structural decisions -> tensor -> range
        self._nodes = {node.name: node for node in self.source.nodes}
        self._bank = WeightBank(dialect.name, dialect.pack, bank_folder)
        self._structures: dict[str, Source] = {Recipe().digest: self.source}

    def structure(self, recipe: Recipe) -> Recipe:
        """The structural part of a recipe."""
        return Recipe({name: recipe[name] for name in recipe if self.techniques[name].stage == "structure"})

    def calibrate(
        self, structure: Recipe, statistics: Mapping[str, Statistics], method: Method, percentile: float
    ) -> None:
        """Fix the activation ranges of `int8-static` for a structure."""
        self.ranges[structure.digest] = {name: s.range(method, percentile) for name, s in statistics.items()}

    def calibration_tensors(self, structure: Recipe) -> tuple[str, ...]:
        """Activations whose ranges static quantisation may need: inputs and outputs of layers, behind Relu and Clip."""
        source = self._structured(structure)
        nodes = {node.name: node for node in source.nodes}
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in source.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        wanted: dict[str, None] = {}
        for layer in source.layers.values():
            if layer.op == "Gather":
                continue
            for name in layer.nodes:
                node = nodes[name]
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
        structure = self.structure(recipe)
        plan = self._plan(self._structured(structure), self.ranges.get(structure.digest, {}))
        for name in recipe:
            if self.techniques[name].stage == "precision":
                self.techniques[name].apply(plan, recipe[name])
        return plan.to_bytes()

    def expected_kernels(self, recipe: Recipe) -> dict[str, frozenset[str]]:
        """Layer name -> kernels that may run under the recipe."""
        decisions = recipe["quantize"]
        return {
            layer.name: self.dialect.kernels(layer.op, decisions.get(layer.name, "none"))
            for layer in self.source.layers.values()
        }

    def _structured(self, structure: Recipe) -> Source:
        if structure.digest not in self._structures:
            plan = self._plan(self.source, {})
            for name in structure:
                self.techniques[name].apply(plan, structure[name])
            self._structures[structure.digest] = plan.as_source(plan.layers.values())
        return self._structures[structure.digest]

    def _plan(self, source: Source, ranges: Mapping[str, Range]) -> Plan:
        def packed(layer: Layer, choice: str) -> Sequence[onnx.TensorProto]:
            return self._bank.get(layer, choice, source.tensors[layer.weight])

        return Plan(source=source, ranges=ranges, packed=packed, write_with=self.dialect.write)
