"""Target shapes of Reshape, Expand and Resize after a cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from autotune.techniques.protocol import Plan
from autotune.techniques.prune.graph import Element, Graph, Port, Size

Wanted = tuple[int | None, ...]  # None: the size that is computed at run time, as before


class Targets:
    """Writes targets anew where the output is cut, or where one is computed from a size that changes. Every size that
    is known becomes a number; those that vary stay as they are computed. Equal targets are written once."""

    def __init__(self, plan: Plan, graph: Graph, keep: Mapping[Port, np.ndarray]) -> None:
        self._plan, self._graph, self._keep = plan, graph, keep
        self._made: dict[tuple[str, Wanted], str] = {}

    def renewed(self, node: onnx.NodeProto, slot: int) -> tuple[onnx.NodeProto, list[onnx.NodeProto]]:
        """The node with its target (input `slot`) as it has to be now, and the nodes that compute it."""
        target, out = node.input[slot], node.output[0]
        elements = self._graph.elements(target)
        shape = self._graph.shape(out)
        if shape is None or not (self._is_cut(out, shape) or self._is_stale(elements)):
            return node, []
        sizes = [self._size((out, axis), size) for axis, size in enumerate(shape)]
        wanted = _wanted(node.op_type, sizes, elements)
        extra: list[onnx.NodeProto] = []
        if (target, wanted) not in self._made:
            name = f"{node.name}:target"
            extra = self._write(name, target, wanted)
            self._made[target, wanted] = name
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[slot] = self._made[target, wanted]
        return copy, extra

    def _is_cut(self, out: str, shape: Sequence[int | None]) -> bool:
        return any((out, axis) in self._keep for axis in range(len(shape)))

    def _is_stale(self, elements: Sequence[Element] | None) -> bool:
        return any(isinstance(e, Size) and (e.tensor, e.axis) in self._keep for e in elements or ())

    def _size(self, port: Port, before: int | None) -> int | None:
        stays = self._keep.get(port)
        return before if stays is None else int(stays.sum())

    def _write(self, name: str, target: str, wanted: Wanted) -> list[onnx.NodeProto]:
        """Nodes that compute `name`: none where it is a constant."""
        if None not in wanted:
            self._plan.set_tensor(name, np.array(wanted, np.int64))
            return []
        pieces = self._pieces(target, len(wanted))
        nodes, names = [], []
        for axis, size in enumerate(wanted):
            piece = f"{name}.{axis}"
            if size is not None:
                self._plan.set_tensor(piece, np.array([size], np.int64))
            elif pieces is not None:
                piece = pieces[axis]
            else:
                self._plan.set_tensor(f"{piece}.start", np.array([axis], np.int64))
                self._plan.set_tensor(f"{piece}.end", np.array([axis + 1], np.int64))
                nodes.append(helper.make_node("Slice", [target, f"{piece}.start", f"{piece}.end"], [piece], name=piece))
            names.append(piece)
        return [*nodes, helper.make_node("Concat", names, [name], name=name, axis=0)]

    def _pieces(self, target: str, rank: int) -> list[str] | None:
        """The single elements that the target is put together from, None where it is not."""
        number = self._graph.producer.get(target)
        if number is None or self._graph.nodes[number].op_type != "Concat":
            return None
        names = list(self._graph.nodes[number].input)
        single = all(len(self._graph.elements(name) or ()) == 1 for name in names)
        return names if single and len(names) == rank else None


def _wanted(op: str, sizes: Sequence[int | None], elements: Sequence[Element] | None) -> Wanted:
    """The target's elements. Where one size of a Reshape varies, -1 says it, else what was there before."""
    if op == "Reshape" and sum(size is None for size in sizes) <= 1:
        return tuple(-1 if size is None else size for size in sizes)
    before = elements if elements is not None and len(elements) == len(sizes) else [None] * len(sizes)
    given = [element if isinstance(element, int) else None for element in before]
    return tuple(size if size is not None else old for size, old in zip(sizes, given, strict=True))
