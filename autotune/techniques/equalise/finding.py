"""Where a scale can be moved from one side of a tensor to the other without changing what the model computes.

From every writer (a layer, a normalisation, a product with a constant per channel) its output is followed through
operators that commute with positive scales per channel, up to the layers that read it. Each element of a tensor on the
way is known by the number of the writer's channel that it comes from: `ids`, int64 of the tensor's rank, of size 1
along every axis that does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto

from autotune.layers import Layer, Skipped
from autotune.techniques.equalise.units import Fold, Unit, inputs_of, is_product
from autotune.techniques.nodes import attribute
from autotune.techniques.protocol import Plan

_ANYWHERE = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Abs", "Neg"})  # one element, one element
_IN_PLACE = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})  # within one channel (axis 1)
_NORMS = {"LayerNormalization": -1, "BatchNormalization": 1, "InstanceNormalization": 1}  # operator -> channel axis
_READERS = ("MatMul", "Gemm", "Conv")


@dataclass
class _Reach:
    """What is found behind a writer."""

    nodes: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # layer -> node -> ids of its inputs
    folds: list[Fold] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)  # nodes
    hindrance: str = ""


def find(plan: Plan, *, insert: bool = False) -> tuple[dict[str, Unit], list[Skipped]]:
    """Units by name in the order of the graph, and the layers that belong to none, with the reason. With `insert`
    products that are in no unit get one with a node of its own.
    """
    graph = _Graph(plan)
    units: dict[str, Unit] = {}
    reasons: dict[str, str] = {}
    read: set[str] = set()
    for tensor, ids, writer, folds in graph.writers():
        reach = _Reach(folds=folds)
        graph.follow(tensor, ids, reach)
        if not reach.nodes:
            continue
        hindrance = reach.hindrance or graph.disagreement(writer, reach)
        if hindrance:
            for name in reach.nodes:
                reasons.setdefault(name, hindrance)
            continue
        readers = {name: next(iter(each.values())) for name, each in reach.nodes.items()}
        first = min(readers, key=graph.position)
        read |= readers.keys()
        # A layer's own weights come first among writers, so they are what a unit is about where there is a choice.
        units.setdefault(first, Unit(first, int(ids.max()) + 1, writer, readers, tuple(reach.folds)))
    if insert:
        for unit in graph.insertable(read):
            units[unit.name] = unit
            read |= unit.readers.keys()
    skipped = [
        Skipped(layer.name, layer.op, reasons.get(layer.name) or graph.why_unreached(layer), layer.parameters)
        for layer in plan.layers.values()
        if layer.name not in read
    ]
    return dict(sorted(units.items(), key=lambda item: graph.position(item[0]))), skipped


class _Graph:
    """Tables of the plan's graph as it is now."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shapes = plan.shapes()
        self._consumers = plan.consumers()
        self._outputs = plan.output_names()
        self._producers = {name: node for node in plan.nodes for name in node.output}
        self._owners = {node: layer for layer in plan.layers.values() for node in layer.nodes}
        self._positions = {node.name: at for at, node in enumerate(plan.nodes)}

    def position(self, layer: str) -> int:
        """Where a layer is used first."""
        return min(self._positions[node] for node in self._plan.layer(layer).nodes)

    # -- writers

    def writers(self) -> Iterator[tuple[str, np.ndarray, str | None, list[Fold]]]:
        """(output, its ids, the layer if it is one, constants to fold into); layers before everything else."""
        for node in self._plan.nodes:
            layer = self._owners.get(node.name)
            if layer is not None and layer.op != "Gather" and (layer.op != "ConvTranspose" or layer.group == 1):
                rank = len(self._shapes.get(node.output[0], ())) if layer.op == "MatMul" else len(layer.shape)
                ids = _along(layer.shape[layer.output_axis], -1 if layer.op in ("MatMul", "Gemm") else 1, rank)
                bias = len(node.input) > 2 and bool(node.input[2])
                if ids is not None and (not bias or node.input[2] in self._plan.tensors):
                    flat = ids.reshape(-1)
                    yield node.output[0], ids, layer.name, [Fold(node.name, 2, flat)] if bias else []
        for node in self._plan.nodes:
            if node.name not in self._owners and not node.domain:
                yield from self._other_writers(node)

    def _other_writers(self, node: onnx.NodeProto) -> Iterator[tuple[str, np.ndarray, str | None, list[Fold]]]:
        shape = self._shapes.get(node.output[0]) if node.output else None
        if shape is None:
            return
        if node.op_type in _NORMS and self._is_float(node.input[1]):
            axis = _NORMS[node.op_type]
            scale = self._plan.tensors[node.input[1]]
            constants = [at for at in (1, 2) if at < len(node.input) and node.input[at]]
            whole = node.op_type != "LayerNormalization" or attribute(node, "axis", -1) in (-1, len(shape) - 1)
            ids = _along(int(np.prod(scale.dims)), axis, len(shape)) if whole else None
            if ids is not None and all(self._is_float(node.input[at]) for at in constants):
                yield node.output[0], ids, None, [Fold(node.name, at, ids.reshape(-1)) for at in constants]
        elif node.op_type == "Mul":
            at = next((i for i, name in enumerate(node.input) if self._is_float(name)), None)
            dims = list(self._plan.tensors[node.input[at]].dims) if at is not None else []
            varying = [axis - len(dims) for axis, size in enumerate(dims) if size > 1]
            if at is not None and len(varying) == 1:
                ids = _along(dims[varying[0]], varying[0], len(shape))
                if ids is not None and len(dims) <= len(shape):
                    yield node.output[0], ids, None, [Fold(node.name, at, ids.reshape(ids.shape[-len(dims) :]))]

    def insertable(self, read: set[str]) -> list[Unit]:
        """A unit for every tensor that products read directly and no other unit scales."""
        by_tensor: dict[str, list[Layer]] = {}
        for layer in sorted(self._plan.layers.values(), key=lambda layer: self.position(layer.name)):
            nodes = [self._plan.nodes[self._positions[name]] for name in layer.nodes]
            tensors = {node.input[0] for node in nodes}
            if (
                layer.name not in read
                and is_product(layer)
                and len(tensors) == 1
                and not tensors & {*self._plan.tensors}
            ):
                by_tensor.setdefault(tensors.pop(), []).append(layer)
        units = []
        for tensor, layers in by_tensor.items():
            ids = np.arange(inputs_of(layers[0]))
            units.append(Unit(layers[0].name, len(ids), None, {each.name: ids for each in layers}, (), tensor))
        return units

    def disagreement(self, writer: str | None, reach: _Reach) -> str:
        """Why nodes that share a weight cannot all be scaled alike; empty if they can."""
        if writer is not None and len(self._plan.layer(writer).nodes) > 1:
            return f"layer {writer!r} in front of it is used {len(self._plan.layer(writer).nodes)} times"
        for name, each in reach.nodes.items():
            layer = self._plan.layer(name)
            if name == writer:
                return f"layer {name!r} reads what it has written itself"
            first = next(iter(each.values()))
            if set(each) != set(layer.nodes) or any(not np.array_equal(first, ids) for ids in each.values()):
                return f"layer {name!r}, which reads the same tensor, is also used elsewhere"
        return ""

    # -- following a tensor

    def follow(self, tensor: str, ids: np.ndarray, reach: _Reach) -> None:
        """Collect what reads `tensor`, directly or through operators that commute with scales."""
        if tensor in self._outputs:
            reach.hindrance = reach.hindrance or f"what it reads ({tensor!r}) is also an output of the model"
        for node in self._consumers.get(tensor, []):
            if node.op_type in ("Shape", "Size"):
                continue  # scales are nothing to them
            layer = self._owners.get(node.name)
            if layer is not None and list(node.input).count(tensor) == 1 and node.input[0] == tensor:
                inputs = _channels_of(layer, ids)
                if inputs is None:
                    reach.hindrance = reach.hindrance or f"layer {layer.name!r} reads the tensor in another way"
                else:
                    reach.nodes.setdefault(layer.name, {})[node.name] = inputs
                continue
            # A node that is reached a second time would multiply or add what has been scaled already.
            following = self._behind(node, tensor, ids, reach) if node.name not in reach.passed else None
            reach.passed.add(node.name)
            if following is None:
                # Go on nowhere, but keep what was found: those layers are told why they cannot be scaled.
                reach.hindrance = reach.hindrance or f"{_show(node)} reads the same tensor and does not keep scales"
            else:
                self.follow(node.output[0], following, reach)

    def _behind(self, node: onnx.NodeProto, tensor: str, ids: np.ndarray, reach: _Reach) -> np.ndarray | None:
        """ids of the node's output; None if it does not commute with the scales."""
        if node.domain or list(node.input).count(tensor) != 1 or len([name for name in node.output if name]) != 1:
            return None
        others = [name for name in node.input if name and name != tensor]
        constant = len(others) == 1 and self._is_float(others[0])
        if node.op_type in _ANYWHERE and node.op_type != "PRelu":
            return ids
        if constant and node.op_type == "PRelu" and node.input[0] == tensor:
            return ids
        if len(others) == 1 and (node.op_type == "Mul" or (node.op_type == "Div" and node.input[0] == tensor)):
            return self._same_rank(node, ids)
        if constant and node.op_type in ("Add", "Sub"):
            at = list(node.input).index(others[0])
            if len(self._plan.tensors[others[0]].dims) <= ids.ndim:
                reach.folds.append(Fold(node.name, at, ids))
                return ids
            return None
        if node.op_type in _IN_PLACE:
            return ids if ids.ndim > 1 and ids.size == ids.shape[1] else None
        if node.op_type == "Transpose":
            return ids.transpose(attribute(node, "perm", tuple(reversed(range(ids.ndim)))))
        if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and node.input[0] == tensor:
            return self._reshaped(tensor, node.output[0], ids)
        if node.op_type == "MatMul" and node.input[1] == tensor:
            return self._mixed(node, ids)
        return None

    def _same_rank(self, node: onnx.NodeProto, ids: np.ndarray) -> np.ndarray | None:
        shape = self._shapes.get(node.output[0])
        return ids if shape is not None and len(shape) == ids.ndim else None

    def _reshaped(self, before: str, after: str, ids: np.ndarray) -> np.ndarray | None:
        """Everything from the first axis that matters on must be of known size, and so must its new form be."""
        old, new = self._shapes.get(before), self._shapes.get(after)
        if old is None or new is None or len(old) != ids.ndim:
            return None
        first = next((axis for axis, size in enumerate(ids.shape) if size > 1), ids.ndim - 1)
        tail = [size for size in old[first:] if size is not None]
        if len(tail) < len(old) - first:
            return None
        wanted, found = int(np.prod(tail)), 1
        start = len(new)
        while start > 0 and found < wanted:
            size = new[start - 1]
            if size is None:
                return None
            found, start = found * size, start - 1
        if found != wanted:
            return None
        whole = np.broadcast_to(ids.reshape(ids.shape[first:]), tail)
        sizes = [int(size or 1) for size in new[start:]]
        return _narrowed(whole.reshape((*(1 for _ in new[:start]), *sizes)))

    def _mixed(self, node: onnx.NodeProto, ids: np.ndarray) -> np.ndarray | None:
        """Rows mixed by another tensor, as attention does: p @ v keeps scales of v's columns and of its heads."""
        left, right = self._shapes.get(node.input[0]), self._shapes.get(node.input[1])
        if left is None or right is None or not len(left) <= len(right) == ids.ndim or ids.shape[-2] != 1:
            return None
        return ids

    def why_unreached(self, layer: Layer) -> str:
        """Why no writer was found in front of a layer."""
        if layer.op not in _READERS:
            return f"{layer.op} layers are no readers of scaled tensors"
        (tensor, *_) = next(node.input for node in self._plan.nodes if node.name == layer.nodes[0])
        while tensor in self._producers:
            node = self._producers[tensor]
            inner = [name for name in node.input if name and name not in self._plan.tensors]
            if node.name in self._owners:
                return f"{_show(node)} in front of it cannot be scaled per channel"
            if len(inner) != 1 or not self._is_passed(node):
                return f"{_show(node)} in front of it does not keep scales"
            tensor = inner[0]
        return "it reads an input of the model" if tensor not in self._plan.tensors else "it reads a constant"

    def _is_passed(self, node: onnx.NodeProto) -> bool:
        arranging = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Add", "Sub", "Mul", "Div")
        return not node.domain and (node.op_type in _ANYWHERE | _IN_PLACE or node.op_type in arranging)

    def _is_float(self, name: str) -> bool:
        tensor = self._plan.tensors.get(name)
        return tensor is not None and tensor.data_type == TensorProto.FLOAT


def _channels_of(layer: Layer, ids: np.ndarray) -> np.ndarray | None:
    """The channel `[inputs]` that each input channel or feature of a layer comes from; None if that varies."""
    if layer.op not in _READERS:
        return None
    axis, inputs = 1 if layer.op == "Conv" else ids.ndim - 1, inputs_of(layer)
    if axis >= ids.ndim or ids.size != ids.shape[axis] or ids.size not in (1, inputs):
        return None
    return np.broadcast_to(ids.reshape(-1), (inputs,))


def _along(size: int, axis: int, rank: int) -> np.ndarray | None:
    """0 .. size - 1 along one axis of a tensor of that rank."""
    if not -rank <= axis < rank:
        return None
    shape = [1] * rank
    shape[axis] = size
    return np.arange(size).reshape(shape)


def _narrowed(ids: np.ndarray) -> np.ndarray:
    """Of size 1 along every axis where nothing changes."""
    for axis in range(ids.ndim):
        first = np.take(ids, [0], axis=axis)
        if np.array_equal(np.broadcast_to(first, ids.shape), ids):
            ids = first
    return ids


def _show(node: onnx.NodeProto) -> str:
    return f"{node.op_type} node {node.name!r}"
