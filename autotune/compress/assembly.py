"""Model + recipe -> bytes of an artifact. Everything slow is done once here; a trial only assembles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import onnx

from autotune.compress.bank import WeightBank
from autotune.compress.calibration import Method, Range, Statistics
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.plan import Plan, Source
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import STAGES, Technique
from autotune.techniques.quantize import CALIBRATED, NEED_MOMENTS
from autotune.techniques.rounding import Rounding

Calibrate = Callable[[Recipe], Mapping[str, Range]]  # structural part of a recipe -> activation -> its range

_STRUCTURES = 8  # graphs kept beside the original's: searching goes back and forth between a few
_STRUCTURE_BYTES = 256 << 20  # in memory, of constants that these do not share with the original, together
_STRUCTURE_DISK = 4 << 30  # the same on disk, where those of large models lie


@dataclass
class _Shared:
    """What does not depend on the dialect: found out once for all the dialects of a study."""

    source: Source
    ranges: dict[str, Mapping[str, Range]] = field(default_factory=dict)
    calibrate_with: Calibrate | None = None
    structures: OrderedDict[str, Source] = field(default_factory=OrderedDict)


class Assembler:
    """Builds artifacts of one model in one dialect; `sibling` builds the same in another.

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
        self._begin(_Shared(Source.of(model, layers)), dialect, techniques, bank_folder, checkpoints)

    def _begin(
        self,
        shared: _Shared,
        dialect: Dialect,
        techniques: Mapping[str, Technique],
        bank_folder: Path | None,
        checkpoints: Path | None,
    ) -> None:
        self._shared = shared
        self.dialect = dialect
        self.techniques = dict(techniques)
        self.checkpoints = checkpoints
        self._nodes = {node.name: node for node in self.source.nodes}
        self._bank = WeightBank(dialect.name, dialect.pack, bank_folder)

    def sibling(self, dialect: Dialect, *, bank_folder: Path | None = None) -> Assembler:
        """Builds the same model in another dialect. Structures, moments and ranges are found out once for both: what
        is told to one, the other knows."""
        made = Assembler.__new__(Assembler)
        made._begin(self._shared, dialect, self.techniques, bank_folder, self.checkpoints)
        return made

    @property
    def source(self) -> Source:
        """The original model, taken apart."""
        return self._shared.source

    @property
    def ranges(self) -> dict[str, Mapping[str, Range]]:
        """Digest of the structural decisions -> activation -> its range."""
        return self._shared.ranges

    @property
    def calibrate_with(self) -> Calibrate | None:
        """What finds the ranges of a structure that has none yet."""
        return self._shared.calibrate_with

    @calibrate_with.setter
    def calibrate_with(self, calibrate: Calibrate | None) -> None:
        self._shared.calibrate_with = calibrate

    @property
    def _structures(self) -> OrderedDict[str, Source]:
        return self._shared.structures

    def tell_moments(self, moments: Mapping[str, Moments]) -> None:
        """What every layer of the original reads on the calibration data, for the techniques that ask."""
        self._shared.source = replace(self.source, moments=dict(moments))
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
            while len(self._structures) > 1 and self._too_many():
                self._structures.popitem(last=False)
        self._structures.move_to_end(structure.digest)
        return self._structures[structure.digest]

    def _too_many(self) -> bool:
        """Whether the kept structures take more room than they are worth."""
        in_memory, on_disk = self._own(on_disk=False), self._own(on_disk=True)
        return len(self._structures) > _STRUCTURES or in_memory > _STRUCTURE_BYTES or on_disk > _STRUCTURE_DISK

    def _own(self, *, on_disk: bool) -> int:
        """Bytes of constants that the kept structures have for themselves."""
        theirs = {
            key: size
            for source in self._structures.values()
            for key, size in source.tensors.sizes(on_disk=on_disk).items()
        }
        return sum(theirs[key] for key in theirs.keys() - self.source.tensors.sizes().keys())

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
        if choice == "none":
            return self.source.tensors.size(layer.weight)
        # Rounding changes no size; nearest is the cheapest.
        moments = self.source.moments.get(layer.name) if choice in NEED_MOMENTS else None
        packed = self._packed(self.source, layer, choice, Rounding(moments=moments))
        return sum(tensor.ByteSize() for tensor in packed)

    def assemble(self, recipe: Recipe) -> bytes:
        """The artifact's bytes; equal recipes give equal bytes.

        Raises `KeyError` for an unknown technique or layer, `TrialFailure` where a decision cannot be written.
        """
        return self._finished(recipe).to_bytes()

    def assemble_to(self, stream: BinaryIO, recipe: Recipe, extra_outputs: Sequence[str] = ()) -> None:
        """Write the artifact's bytes to `stream`, piece by piece: a large artifact is never in memory as a whole.

        `extra_outputs`: activations to give out beside the model's own outputs, for those who look at them. Raises what
        `assemble` and `stream` raise; nothing is written where a decision cannot be.
        """
        self._finished(recipe).write(stream, extra_outputs)

    def _finished(self, recipe: Recipe) -> Plan:
        structure = self.structure(recipe)
        source = self.structured(structure)
        precise = [name for name in recipe if self.techniques[name].stage == "precision"]
        plan = self._plan(source, self.ranges_for(recipe))
        for name in precise:
            self.techniques[name].apply(plan, recipe[name])
        return plan

    def formats(self, recipe: Recipe) -> dict[str, tuple[str, Rounding]]:
        """Layer, as the recipe's structure has it -> the numeric format that is written for it, and how its weight is
        rounded. Raises what `assemble` raises."""
        found: dict[str, tuple[str, Rounding]] = {}

        def note(plan: Plan, decisions: Mapping[str, str]) -> None:
            for name, choice in decisions.items():
                found[name] = choice, plan.rounding_of(plan.layer(name), choice)

        plan = self.begun(self.structured(self.structure(recipe)))
        plan.write_with = note
        for name in (name for name in recipe if self.techniques[name].stage == "precision"):
            self.techniques[name].apply(plan, recipe[name])
        return found

    def begun(self, source: Source) -> Plan:
        """A plan that starts from `source`, to be edited by techniques that change structure."""
        return self._plan(source, {})

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
        needed = any(choice in CALIBRATED for name in precise for choice in recipe[name].values())
        if needed and structure.digest not in self.ranges and self.calibrate_with is not None:
            self.ranges[structure.digest] = self.calibrate_with(structure)
        return self.ranges.get(structure.digest, {})

    def _packed(self, source: Source, layer: Layer, choice: str, rounding: Rounding) -> tuple[onnx.TensorProto, ...]:
        digest = source.digest(layer.weight)
        return self._bank.get(layer, choice, lambda: source.tensors.array(layer.weight), digest, rounding)

    def _plan(self, source: Source, ranges: Mapping[str, Range]) -> Plan:
        def packed(layer: Layer, choice: str, rounding: Rounding) -> Sequence[onnx.TensorProto]:
            return self._packed(source, layer, choice, rounding)

        return Plan(
            source=source,
            ranges=ranges,
            packed=packed,
            write_with=self.dialect.write,
            offers=self.dialect.offers,
            recall=self._bank.recall,
            checkpoints=self.checkpoints,
        )
