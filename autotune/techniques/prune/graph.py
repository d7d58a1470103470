"""The plan's graph as the dependency analysis reads it: ports, sizes, constants, and where sizes come from."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.techniques.nodes import attribute, integer
from autotune.techniques.protocol import Plan

Port = tuple[str, int]  # a tensor and one of its axes

MOVES = ("Gather", "Slice", "Squeeze", "Unsqueeze", "Cast", "Concat", "Identity")  # of sizes, without computing
TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3}  # operator -> the input that names its output's shape


@dataclass(frozen=True)
class Size:
    """An element of a shape tensor that is the size of `axis` of `tensor` at run time."""

    tensor: str
    axis: int


Element = int | Size | None  # None: computed in a way that is not followed


class Graph:
    """A snapshot of a plan. Constants that are vectors, except layers' weights, get a name of their own at each place
    where they are read: many layers may share a bias of zeros, and each is cut for itself."""

    def __init__(self, plan: Plan) -> None:
        self.nodes: tuple[onnx.NodeProto, ...] = tuple(plan.nodes)
        self.layers = dict(plan.layers)
        self.tensors = copy(plan.tensors)  # a table: those of a large model are not in memory
        self.outputs = plan.output_names()
        self.origin: dict[str, str] = {}  # name at the place -> the constant's name
        self.index = {id(node): number for number, node in enumerate(self.nodes)}
        self.by_name = {node.name: number for number, node in enumerate(self.nodes)}
        self.producer = {name: number for number, node in enumerate(self.nodes) for name in node.output if name}
        self.weights = {layer.weight: layer.name for layer in self.layers.values()}
        self._shapes = {name: tuple(_size(dim) for dim in shape) for name, shape in plan.shapes().items()}
        self._symbols: dict[Port, Port] = {}
        self._elements: dict[str, tuple[Element, ...] | None] = {}
        self.inputs = tuple(self._local_names(number, node) for number, node in enumerate(self.nodes))
        self.readers: dict[str, list[int]] = {}
        for name, nodes in plan.consumers().items():
            self.readers[name] = list(dict.fromkeys(self.index[id(node)] for node in nodes))
        for number, names in enumerate(self.inputs):
            for name in names:
                if name in self.origin:
                    self.readers[name] = [number]

    def _local_names(self, number: int, node: onnx.NodeProto) -> tuple[str, ...]:
        names = []
        for slot, name in enumerate(node.input):
            shape = self._shapes.get(name, ())
            if name in self.tensors and name not in self.weights and sum(size != 1 for size in shape) <= 1:
                local = f"{name} at {number}.{slot}"
                self.origin[local] = name
                self._shapes[local] = shape
                name = local
            names.append(name)
        return tuple(names)

    # -- tensors

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """None for a tensor of unknown rank; None in it for an axis that varies."""
        return self._shapes.get(tensor)

    def size(self, port: Port) -> int | None:
        """None where it varies or is not known."""
        shape = self.shape(port[0])
        return None if shape is None or port[1] >= len(shape) else shape[port[1]]

    def symbol(self, port: Port) -> Port:
        """The port that stands for all that are known to have the same size, which varies."""
        return self._symbols.get(port, port)

    def equate(self, port: Port, source: Port) -> None:
        """The size of `port`, which varies, is that of `source`."""
        self._symbols.setdefault(port, self.symbol(source))

    def is_constant(self, tensor: str) -> bool:
        return self.origin.get(tensor, tensor) in self.tensors

    def is_fixed(self, tensor: str) -> bool:
        """Whether a tensor is a constant, or computed from constants alone (a table that is stored in another type)."""
        waiting, seen = [tensor], {tensor}
        while waiting:
            name = waiting.pop()
            if self.is_constant(name):
                continue
            number = self.producer.get(name)
            if number is None or not self.inputs[number]:
                return False
            waiting += [each for each in self.inputs[number] if each and each not in seen]
            seen.update(self.inputs[number])
        return True

    def constant(self, tensor: str) -> np.ndarray | None:
        """The value of a constant, None for an activation."""
        found = self.tensors.get(self.origin.get(tensor, tensor))
        return None if found is None else numpy_helper.to_array(found)

    def integers(self, tensor: str) -> list[int] | None:
        """The values of a constant of integers."""
        value = self.constant(tensor)
        return None if value is None else [int(number) for number in value.reshape(-1)]

    def optional(self, number: int, slot: int) -> str:
        """The input of a node, "" where it is left out."""
        names = self.inputs[number]
        return names[slot] if slot < len(names) else ""

    def axes(self, number: int, slot: int) -> list[int] | None:
        """Axes that a node names, as an attribute (up to opset 17, by operator) or in input `slot`; [] where it names
        none, None where they are computed at run time."""
        given = attribute(self.nodes[number], "axes", None)
        if isinstance(given, list):
            return [int(axis) for axis in given]
        name = self.optional(number, slot)
        return self.integers(name) if name else []

    # -- sizes that are computed in the graph

    def elements(self, tensor: str) -> tuple[Element, ...] | None:
        """Where each element of a shape tensor comes from; None where that is not known at all."""
        tensor = self.origin.get(tensor, tensor)
        if tensor not in self._elements:
            self._elements[tensor] = None  # against cycles
            self._elements[tensor] = self._derive(tensor)
        return self._elements[tensor]

    def _derive(self, tensor: str) -> tuple[Element, ...] | None:
        constant = self.tensors.get(tensor)
        if constant is not None:
            value = numpy_helper.to_array(constant)
            integral = np.issubdtype(value.dtype, np.integer) and value.ndim <= 1
            return tuple(int(number) for number in value.reshape(-1)) if integral else None
        number = self.producer.get(tensor)
        if number is None:
            return None
        node = self.nodes[number]
        if node.op_type == "Shape":
            shape = self.shape(node.input[0])
            if shape is None:
                return None
            axes = range(len(shape))[integer(node, "start", 0) : integer(node, "end", len(shape))]
            return tuple(Size(node.input[0], axis) for axis in axes)
        if node.op_type == "Concat":
            parts = [self.elements(name) for name in node.input]
            known = [part for part in parts if part is not None]
            return tuple(e for part in known for e in part) if len(known) == len(parts) else None
        if node.op_type not in MOVES:
            return None
        source = self.elements(node.input[0])
        if source is None or node.op_type not in ("Gather", "Slice"):
            return source
        if node.op_type == "Gather":
            at = self.integers(node.input[1])
            return None if at is None else tuple(source[i] for i in at)
        ranges = slices(self, number, 1)
        return None if ranges is None else source[ranges.get(0, slice(None))]


def _size(dim: int | None) -> int | None:
    return dim if dim is not None and dim >= 0 else None


def slices(graph: Graph, number: int, rank: int) -> dict[int, slice] | None:
    """Axis -> what a Slice node takes of it; None where that is only known at run time."""
    given = [graph.optional(number, slot) for slot in (1, 2, 3, 4)]
    starts, ends, axes, steps = (graph.integers(name) if name else None for name in given)
    if starts is None or ends is None or (given[2] and axes is None) or (given[3] and steps is None):
        return None
    axes = axes if axes is not None else list(range(len(starts)))
    steps = steps if steps is not None else [1] * len(starts)
    return {a % rank: slice(s, e, p) for a, s, e, p in zip(axes, starts, ends, steps, strict=True)}
