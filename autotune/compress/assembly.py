"""Model + recipe -> bytes of an artifact. Everything slow is done once here; a trial only assembles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from autotune.compress.bank import WeightBank
from autotune.compress.calibration import Method, Range, Statistics
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.plan import Plan, Source
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import STAGES, Technique
from autotune.techniques.quantize import NEED_MOMENTS
from autotune.techniques.rounding import Rounding

Calibrate = Callable[[Recipe], Mapping[str, Range]]  # structural part of a recipe -> activation -> its range

_STRUCTURES = 8  # graphs kept beside the original's: searching goes back and forth between a few
_STRUCTURE_BYTES = 256 << 20  # of constants that these do not share with the original, together
_CALIBRATED = ("int8-static",)  # choices that need ranges


class Assembler:
    """Builds artifacts of one model in one dialect.

    Structural decisions are carried out once per combination, the last few of which are kept; the ranges of static
    quantisation belong to such a combination and come from `calibrate_with` when they are needed first. A recipe with
    `int8-static` fails with a clear message where its structure has not been calibrated.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        layers: Iterable[Layer],
        dialect: Dialect,
        techniques: Mapping[str, Technique],
        *,
        bank_folder: Path | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        """`checkpoints` is the folder of recovered weights, which recipes may name."""
        self.source = Source.of(model, layers)
        self.dialect = dialect
        self.techniques = dict(techniques)
        self.ranges: dict[str, Mapping[str, Range]] = {}  # digest of the structural decisions -> tensor -> range
        self.calibrate_with: Calibrate | None = None
        self.checkpoints = checkpoints
        self._nodes = {node.name: node for node in self.source.nodes}
        self._bank = WeightBank(dialect.name, dialect.pack, bank_folder)
        self._structures: OrderedDict[str, Source] = OrderedDict()

    def tell_moments(self, moments: Mapping[str, Moments]) -> None:
        """What every layer of the original reads on the calibration data, for the techniques that ask."""
        self.source = replace(self.source, moments=dict(moments))
        self._structures.clear()

    def original(self) -> Plan:
        """The original model as a plan, to look at."""
        return self._plan(self.source, {})

    def structure(self, recipe: Recipe) -> Recipe:
        """The structural part of a recipe: all but its numeric formats."""
        return Recipe({name: recipe[name] for name in recipe if self.techniques[name].stage != "precision"})

    def structured(self, structure: Recipe) -> Source:
        """The model with structural decisions carried out.

        Raises `KeyError` for an unknown technique or layer, `TrialFailure` where a decision cannot be carried out.
        """
        if not structure:
            return self.source
        if structure.digest not in self._structures:
            plan = self._plan(self.source, {})
            for name in sorted(structure, key=lambda name: STAGES.index(self.techniques[name].stage)):
                self.techniques[name].apply(plan, structure[name])
            self._structures[structure.digest] = plan.as_source(plan.layers.values())
            while len(self._structures) > 1 and (len(self._structures) > _STRUCTURES or self._own() > _STRUCTURE_BYTES):
                self._structures.popitem(last=False)
        self._structures.move_to_end(structure.digest)
        return self._structures[structure.digest]

    def _own(self) -> int:
        """Bytes of constants that the kept structures have for themselves."""
        ours = {id(tensor) for tensor in self.source.tensors.values()}
        theirs = {id(t): t for source in self._structures.values() for t in source.tensors.values()}
        return sum(len(tensor.raw_data) for key, tensor in theirs.items() if key not in ours)

    def calibrate(
        self, structure: Recipe, statistics: Mapping[str, Statistics], method: Method, percentile: float
    ) -> None:
        """Fix the activation ranges of `int8-static` for a structure."""
        self.ranges[structure.digest] = {name: s.range(method, percentile) for name, s in statistics.items()}

    def calibration_tensors(self, structure: Recipe) -> tuple[str, ...]:
        """Activations whose ranges static quantisation may need: inputs and outputs of layers, behind Relu and Clip."""
        source = self.structured(structure)
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
        """Whether the dialect can write `choice` for this layer, and what it needs to know for that is known."""
        if choice in NEED_MOMENTS and layer.name not in self.source.moments:
            return False
        return all(self.dialect.offers(layer, choice, self._nodes[node]) for node in layer.nodes)

    def weight_bytes(self, layer: Layer, choice: str) -> int:
        """Exact bytes of the layer's constants in the artifact under `choice` ("none": as in the model)."""
        weight = self.source.tensors[layer.weight]
        if choice == "none":
            return weight.ByteSize()
        # Rounding changes no size; nearest is the cheapest.
        moments = self.source.moments.get(layer.name) if choice in NEED_MOMENTS else None
        packed = self._bank.get(layer, choice, weight, self.source.digest(layer.weight), Rounding(moments=moments))
        return sum(tensor.ByteSize() for tensor in packed)

    def assemble(self, recipe: Recipe) -> bytes:
        """The artifact's bytes; equal recipes give equal bytes.

        Raises `KeyError` for an unknown technique or layer, `TrialFailure` where a decision cannot be written.
        """
        structure = self.structure(recipe)
        source = self.structured(structure)
        precise = [name for name in recipe if self.techniques[name].stage == "precision"]
        plan = self._plan(source, self.ranges_for(recipe))
        for name in precise:
            self.techniques[name].apply(plan, recipe[name])
        return plan.to_bytes()

    def layers(self, recipe: Recipe) -> tuple[Layer, ...]:
        """The model's layers under the names that decisions use, each with the nodes that do its work in the artifact.

        A layer that was split has the nodes of all its parts; one that is gone is missing.
        """
        source = self.structured(self.structure(recipe))
        result = []
        for name, layer in self.source.layers.items():
            parts = [source.layers[part] for part in source.parts.get(name, (name,))]
            if parts:
                result.append(replace(layer, nodes=tuple(node for part in parts for node in part.nodes)))
        return tuple(result)

    def expected_kernels(self, recipe: Recipe) -> dict[str, frozenset[str]]:
        """Layer name -> kernels that may run under the recipe."""
        source, decisions = self.structured(self.structure(recipe)), recipe["quantize"]
        return {
            name: frozenset().union(
                *(
                    self.dialect.kernels(source.layers[part].op, decisions.get(name, "none"))
                    for part in source.parts.get(name, (name,))
                )
            )
            for name in self.source.layers
        }

    def ranges_for(self, recipe: Recipe) -> Mapping[str, Range]:
        """Activation -> its calibrated range, in the structure of a recipe; found now where it is needed first."""
        structure = self.structure(recipe)
        precise = [name for name in recipe if self.techniques[name].stage == "precision"]
        needed = any(choice in _CALIBRATED for name in precise for choice in recipe[name].values())
        if needed and structure.digest not in self.ranges and self.calibrate_with is not None:
            self.ranges[structure.digest] = self.calibrate_with(structure)
        return self.ranges.get(structure.digest, {})

    def _plan(self, source: Source, ranges: Mapping[str, Range]) -> Plan:
        def packed(layer: Layer, choice: str, rounding: Rounding) -> Sequence[onnx.TensorProto]:
            return self._bank.get(layer, choice, source.tensors[layer.weight], source.digest(layer.weight), rounding)

        return Plan(
            source=source,
            ranges=ranges,
            packed=packed,
            write_with=self.dialect.write,
            offers=self.dialect.offers,
            recall=self._bank.recall,
            checkpoints=self.checkpoints,
        )
