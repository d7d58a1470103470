"""A Plan: one artifact under construction. The graph is edited by technique and dialect, then written as bytes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.compress import checkpoints
from autotune.compress.calibration import Range
from autotune.compress.scratch import Stored, stored, varint
from autotune.compress.shapes import infer_shapes
from autotune.compress.tensors import Tensors
from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.techniques.moments import Moments
from autotune.techniques.quantize import NEED_MOMENTS
from autotune.techniques.rounding import NEAREST, Rounding
from hwprofiles.errors import Failure

MS_DOMAIN = "com.microsoft"
PRODUCER = "hw-autotune"
_GRAPH, _INITIALIZER = b"\x3a", b"\x2a"  # tags of ModelProto.graph and GraphProto.initializer on the wire


@dataclass(frozen=True)
class Source:
    """The normalised model, taken apart once: what every trial starts from. Nothing in it is ever edited in place."""

    nodes: tuple[onnx.NodeProto, ...]
    tensors: Tensors
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    opsets: Mapping[str, int]
    ir_version: int
    name: str
    layers: Mapping[str, Layer]
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # layer of the model -> what it was split into
    moments: Mapping[str, Moments] = field(default_factory=dict)  # layer -> what it reads on the calibration data
    digests: dict[str, str] = field(default_factory=dict)  # tensor -> sha256 of its bytes, as far as asked for

    def digest(self, tensor: str) -> str:
        """sha256 of a constant's bytes."""
        if tensor not in self.digests:
            self.digests[tensor] = self.tensors.digest(tensor)
        return self.digests[tensor]

    @classmethod
    def of(cls, model: onnx.ModelProto, layers: Iterable[Layer]) -> Source:
        """Take a normalised model apart. Weights are brought to raw bytes, so that sizes are comparable; where the
        model's large ones are on disk, all that plans add later go there too."""
        held = {tensor.name: stored(tensor) or _raw(tensor) for tensor in model.graph.initializer}
        return cls(
            nodes=tuple(model.graph.node),
            tensors=Tensors(held, spill=any(isinstance(each, Stored) for each in held.values())),
            inputs=tuple(model.graph.input),
            outputs=tuple(model.graph.output),
            opsets={o.domain: o.version for o in model.opset_import},
            ir_version=model.ir_version,
            name=model.graph.name,
            layers={layer.name: layer for layer in layers},
        )


@dataclass
class Plan:
    """The graph under construction; implements `autotune.techniques.protocol.Plan`.

    `write_with` is the dialect's `write`, `offers` says whether it can write a choice; `packed` and `recall` read the
    weight bank.
    """

    source: Source
    ranges: Mapping[str, Range]
    packed: Callable[[Layer, str, Rounding], Sequence[onnx.TensorProto]]
    write_with: Callable[[Plan, Mapping[str, str]], None]
    offers: Callable[[Layer, str, onnx.NodeProto], bool]
    recall: Callable[[Sequence[object], Callable[[], Sequence[onnx.TensorProto]]], Sequence[onnx.TensorProto]]
    checkpoints: Path | None = None  # folder of recovered weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: Tensors = field(init=False)
    layers: dict[str, Layer] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    ir_version: int = 0  # of the file; formats newer than the model's need a newer one
    rounding: Rounding = NEAREST  # of the weights that `add_packed` adds
    made: set[str] = field(default_factory=set)  # derived activations whose nodes are there already
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _moments: dict[str, Moments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = list(self.source.nodes)
        self.tensors = copy.copy(self.source.tensors)
        self.layers = dict(self.source.layers)
        self.opsets = dict(self.source.opsets)
        self.ir_version = self.source.ir_version
        self.parts = dict(self.source.parts)
        self._moments = dict(self.source.moments)

    # -- reading

    def layer(self, name: str) -> Layer:
        """Raises `KeyError` for an unknown name."""
        return self.layers[name]

    def owners(self) -> dict[str, Layer]:
        """Node name -> its layer."""
        return {node: layer for layer in self.layers.values() for node in layer.nodes}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor -> nodes that read it, in order; a node that reads it twice is listed twice."""
        table: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                table.setdefault(name, []).append(node)
        return table

    def output_names(self) -> set[str]:
        return {value.name for value in self.source.outputs}

    def shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """Tensor -> its shape as inferred for the graph as it is now; None is an axis that varies. Computed anew at
        every call. Tensors of unknown rank are missing."""
        nodes = in_order(self.nodes, {*self.tensors, *(v.name for v in self.source.inputs)})
        return infer_shapes(nodes, self.tensors, self.source.inputs, self.source.outputs, self.opsets)

    def was(self, layer: str) -> Layer | None:
        """The layer as it was before any decision was carried out; None for a part of one."""
        return self.source.layers.get(layer)

    def weight(self, layer: Layer) -> np.ndarray:
        """The layer's weight as it is now, float32 of `layer.shape`; read only."""
        return self.tensors.array(layer.weight)

    def weight_digest(self, layer: Layer) -> str:
        """sha256 of the layer's weight as it is now."""
        if self.tensors.is_same(layer.weight, self.source.tensors):
            return self.source.digest(layer.weight)
        return self.tensors.digest(layer.weight)

    def moments(self, layer: str) -> Moments | None:
        """What the layer reads on the calibration data, as it is now; None where nothing is known."""
        return self._moments.get(layer)

    def range_of(self, tensor: str, layer: Layer) -> Range:
        """Calibrated range of an activation. Raises `TrialFailure` where calibration saw none."""
        found = self.ranges.get(tensor)
        if found is None:
            message = (
                f"layer {layer.name!r}: activation {tensor!r} has no calibrated range; give calibration data that "
                "reaches it or leave this layer out of int8-static"
            )
            raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
        return found

    # -- editing

    def write_precision(self, decisions: Mapping[str, str], rounding: Rounding = NEAREST) -> None:
        """Have the dialect write numeric formats (layer name -> choice) into the graph; a choice for a layer that was
        split holds for each of its parts. Weights are rounded as `rounding` says, by the moments of the plan.

        Raises `KeyError` for an unknown layer, `TrialFailure` for a choice that cannot be written for what the layer
        has become.
        """
        nodes = {node.name: node for node in self.nodes}
        written: dict[str, str] = {}
        for name, choice in decisions.items():
            for part in self.parts.get(name, (name,)):
                layer = self.layer(part)
                if not all(self.offers(layer, choice, nodes[node]) for node in layer.nodes):
                    shape = " x ".join(map(str, layer.shape))
                    message = f"layer {part!r} is {layer.op} {shape} now and cannot be written as {choice}"
                    raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
                written[part] = choice
        self.rounding = rounding
        self.write_with(self, written)

    def set_tensor(self, name: str, array: np.ndarray) -> None:
        """Put a constant in the place of another one, or add it."""
        self.tensors.put(name, array)

    def set_moments(self, layer: str, moments: Moments | None) -> None:
        """Tell what a layer reads after an edit of what is in front of it."""
        self._moments.pop(layer, None)
        if moments is not None:
            self._moments[layer] = moments

    def split(self, layer: str, parts: Sequence[Layer]) -> None:
        """A layer has become several (or, with no parts, is gone). Later decisions on it hold for every part."""
        del self.layers[layer]
        self.layers.update({part.name: part for part in parts})
        whole = next((name for name, its in self.parts.items() if layer in its), layer)
        before = self.parts.get(whole, (whole,))
        now = [name for part in before for name in ([p.name for p in parts] if part == layer else [part])]
        self.parts[whole] = tuple(now)

    def banked(self, key: Sequence[object], make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """What `make` returns, computed once per `key` and kept on disk with the study."""

        def tensors() -> list[onnx.TensorProto]:
            return [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in make().items()]

        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.recall(("banked", *key), tensors)}

    def checkpoint(self, name: str) -> Mapping[str, np.ndarray]:
        """Weights that training has found. Raises `TrialFailure` where there are none of that name."""
        return checkpoints.load(self.checkpoints, name)

    def add(self, name: str, array: np.ndarray) -> str:
        """Add a constant once; adding the same name again is a no-op. Returns `name`."""
        if name not in self.tensors:
            self.tensors.put(name, array)
        return name

    def rounding_of(self, layer: Layer, choice: str) -> Rounding:
        """How the layer's weight is rounded under a choice, with the moments that this needs."""
        wanted = self.rounding.needs_moments or choice in NEED_MOMENTS
        return replace(self.rounding, moments=self.moments(layer.name) if wanted else None)

    def add_packed(self, layer: Layer, choice: str) -> None:
        """Add the bank's tensors of a layer under a choice."""
        for tensor in self.packed(layer, choice, self.rounding_of(layer, choice)):
            self.tensors[tensor.name] = tensor

    def use_contrib(self) -> None:
        """Declare the contrib domain, which some kernels need."""
        self.opsets.setdefault(MS_DOMAIN, 1)

    def as_source(self, layers: Iterable[Layer]) -> Source:
        """The graph as it is now, as a starting point for others."""
        used = {name for node in self.nodes for name in reads(node)} | self.output_names()
        tensors = self.tensors.only(used)
        same = {name for name in tensors if tensors.is_same(name, self.source.tensors)}
        return replace(
            self.source,
            nodes=tuple(self.nodes),
            tensors=tensors,
            opsets=dict(self.opsets),
            layers={layer.name: layer for layer in layers},
            parts=dict(self.parts),
            moments=dict(self._moments),
            digests={name: digest for name, digest in self.source.digests.items() if name in same},
        )

    # -- writing

    def to_bytes(self) -> bytes:
        """What `write` writes."""
        out = io.BytesIO()
        self.write(out)
        return out.getvalue()

    def write(self, out: BinaryIO, extra_outputs: Sequence[str] = ()) -> None:
        """Serialise: nodes in topological order, unused constants dropped. Deterministic for equal decisions.

        `extra_outputs`: activations to give out beside the model's own outputs. Raises what `out` raises.
        """
        nodes = in_order(self.nodes, {*self.tensors, *(v.name for v in self.source.inputs)})
        used = {name for node in nodes for name in reads(node)} | self.output_names()
        # The fields in their order, one tensor at a time: a message of the whole would be a second copy of all weights.
        head = onnx.ModelProto(ir_version=self.ir_version, producer_name=PRODUCER)
        tail = onnx.ModelProto()
        tail.opset_import.extend(helper.make_opsetid(d, v) for d, v in sorted(self.opsets.items()))
        begin = onnx.GraphProto(name=self.source.name or "main_graph", node=nodes)
        end = onnx.GraphProto(input=self.source.inputs, output=self.source.outputs)
        end.output.extend(onnx.ValueInfoProto(name=name) for name in extra_outputs)
        sizes = {name: self.tensors.size(name) for name in self.tensors if name in used}
        whole = sum(1 + len(varint(size)) + size for size in sizes.values()) + begin.ByteSize() + end.ByteSize()
        out.write(head.SerializeToString(deterministic=True))
        out.write(_GRAPH + varint(whole))
        out.write(begin.SerializeToString(deterministic=True))
        for name, size in sizes.items():
            out.write(_INITIALIZER + varint(size))
            self.tensors.write(name, out)
        out.write(end.SerializeToString(deterministic=True))
        out.write(tail.SerializeToString(deterministic=True))


def make_node(op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any) -> onnx.NodeProto:
    """A node of the standard domain."""
    return helper.make_node(op, inputs, outputs, name=name, **attributes)


def make_contrib(
    op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any
) -> onnx.NodeProto:
    """A node of ONNX Runtime's contrib domain."""
    return helper.make_node(op, inputs, outputs, name=name, domain=MS_DOMAIN, **attributes)


def rewired(
    node: onnx.NodeProto, inputs: Mapping[str, str], outputs: Mapping[str, str] | None = None
) -> onnx.NodeProto:
    """A copy of `node` with inputs (and outputs) renamed; the original stays as it is."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[:] = [inputs.get(name, name) for name in node.input]
    changed.output[:] = [(outputs or {}).get(name, name) for name in node.output]
    return changed


def in_order(nodes: Sequence[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Stable topological order. A node whose input nobody produces counts as ready (optional or outer scope)."""
    produced = {name for node in nodes for name in node.output if name}
    ready, waiting = set(known), list(nodes)
    result: list[onnx.NodeProto] = []
    while waiting:
        later: list[onnx.NodeProto] = []
        for node in waiting:
            if all(name in ready or name not in produced for name in reads(node)):
                result.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            names = ", ".join(node.name for node in later[:3])
            raise TrialFailure(Failure(kind="bad_model", stage="build", message=f"graph has a cycle through {names}"))
        waiting = later
    return result


def reads(node: onnx.NodeProto) -> list[str]:
    """Names a node reads, subgraphs included."""
    names = [name for name in node.input if name]
    for attr in node.attribute:
        graphs = [attr.g] if attr.type == onnx.AttributeProto.GRAPH else list(attr.graphs)
        for graph in graphs:
            names += [value.name for value in graph.output]
            for inner in graph.node:
                names += reads(inner)
    return names


def _raw(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor with its values as raw bytes (strings have none and stay)."""
    if tensor.HasField("raw_data") or tensor.data_type == onnx.TensorProto.STRING:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
