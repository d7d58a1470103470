"""What one node says about the positions of its tensors: which must be cut together, and which must not be cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from autotune.techniques.prune.graph import Graph, Port

HEADS = "heads"  # a batch axis of a product of two activations
NORM = "norm"  # a normalisation takes its statistics across it: after a cut those of what is left
TABLE = "table"  # the columns of a table whose rows are looked up at run time


@dataclass(frozen=True)
class Tie:
    """Position `at_a[k]` of port `a` and position `at_b[k]` of port `b` stay or go together."""

    a: Port
    b: Port
    at_a: np.ndarray
    at_b: np.ndarray


@dataclass
class Way:
    """One consistent way to cut through a node: its ties, the ports it covers, and what they mean."""

    ties: list[Tie] = field(default_factory=list)
    ports: dict[Port, set[str]] = field(default_factory=dict)  # port -> tags
    factor: int = 0  # of a Reshape's: how many positions of their own it leaves

    def tie(self, a: Port, b: Port, at_a: np.ndarray, at_b: np.ndarray) -> None:
        self.ties.append(Tie(a, b, at_a, at_b))
        self.allow(a)
        self.allow(b)

    def allow(self, port: Port, *tags: str) -> None:
        """The port may be cut as far as this node is concerned."""
        self.ports.setdefault(port, set()).update(tags)


@dataclass
class Relation:
    """All of one node. `always` holds in any case; of each of `choices` one way has to be taken. A port that appears
    in neither must not be cut, nor must one that is `forbidden`."""

    graph: Graph
    number: int
    always: Way = field(default_factory=Way)
    choices: list[list[Way]] = field(default_factory=list)
    forbidden: dict[Port, str] = field(default_factory=dict)  # whatever the ways say
    default: str = "is not followed there"

    @property
    def node(self) -> onnx.NodeProto:
        return self.graph.nodes[self.number]

    @property
    def ins(self) -> tuple[str, ...]:
        return self.graph.inputs[self.number]

    @property
    def out(self) -> str:
        return self.node.output[0]

    def rank(self, tensor: str) -> int | None:
        shape = self.graph.shape(tensor)
        return None if shape is None else len(shape)

    def ranks(self, *tensors: str) -> list[int] | None:
        """The ranks of all of them; None, with the reason kept, where one is not known."""
        found = [self.rank(tensor) for tensor in tensors]
        known = [rank for rank in found if rank is not None]
        if len(known) < len(found):
            self.default = "has an input or output of unknown shape"
            return None
        return known

    def same(self, a: Port, b: Port) -> None:
        """Two axes are one and the same."""
        sizes = self.graph.size(a), self.graph.size(b)
        if sizes == (None, None):
            new, old = (b, a) if b[0] in self.node.output else (a, b)
            if new[0] in self.node.output:
                self.graph.equate(new, old)
            return
        if sizes[0] is None or sizes[0] != sizes[1]:
            self.stop("has sizes that are not known", a, b)
            return
        every = np.arange(sizes[0])
        self.always.tie(a, b, every, every)

    def stop(self, reason: str, *ports: Port) -> None:
        """These must not be cut, and why."""
        self.forbidden.update(dict.fromkeys(ports, reason))

    def why_not(self, port: Port) -> str:
        """One clause with the node's name: what keeps a port from being cut."""
        return f"node {self.node.name!r} ({self.node.op_type}) {self.forbidden.get(port, self.default)}"


Rule = Callable[[Relation], None]
Rules = Mapping[str, Rule]
