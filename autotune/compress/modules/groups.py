"""What must be cut together in a module, told in the layers and tensors of its export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autotune.compress.modules.tracing import Member, NotFollowed, Tracing
from autotune.compress.modules.trial import TrialCut
from autotune.layers import Layer
from autotune.techniques.prune.graph import Graph, Port
from autotune.techniques.prune.importance import read_by
from autotune.techniques.prune.relation import HEADS
from autotune.techniques.prune.spread import Analysis, Group
from autotune.techniques.prune.units import made_by


@dataclass
class ModuleGroups:
    """Groups as torch-pruning finds them, each believed after a trial cut of half of it; implements
    `autotune.techniques.prune.route.Groups`. `tracing` is None, and `problem` says why, where the module cannot be
    followed at all."""

    graph: Graph
    trial: TrialCut
    tracing: Tracing | None
    problem: str = ""
    _known: dict[Port, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._analysis = Analysis(self.graph)
        self._layers = {made_by(layer): layer for layer in self.graph.layers.values()}

    def group(self, seed: Port) -> Group:
        """See the protocol."""
        if seed not in self._known:
            self._known[seed] = self._found(self._layers[seed], seed)
        return self._known[seed]

    def settle(self, group: Group) -> None:
        """See the protocol. A module leaves no choice of ways."""

    def _found(self, layer: Layer, seed: Port) -> Group:
        size = self.graph.size(seed) or 0
        alone = Group({seed: np.arange(size)}, size, frozenset(), ())
        if self.tracing is None:
            return replace(alone, stops=(self.problem,))
        why = ""
        try:
            members = self.tracing.members(layer.name, range(size))
            for classes, tags in self._divisions(layer, seed, size, members):
                group = Group(self._ports(members, classes), int(classes.max()) + 1, tags, ())
                if layer.op == "Gather" or group.count < 2:
                    return group  # refused for what it is
                try:
                    self._try(layer.name, group.count, classes)
                except NotFollowed as error:
                    why = why or str(error)
                else:
                    return group
        except NotFollowed as error:
            why = str(error)
        return replace(alone, stops=(why,))

    def _try(self, layer: str, count: int, classes: np.ndarray) -> None:
        """Raises `NotFollowed` where one class, or half of them, cannot go."""
        self.trial.count[layer] = count
        for gone in dict.fromkeys((1, count // 2)):
            self.trial.attributes.pop(layer, None)
            self.trial.cut({layer: np.flatnonzero(classes < gone)})

    def _divisions(
        self, layer: Layer, seed: Port, size: int, members: Sequence[Member]
    ) -> Iterator[tuple[np.ndarray, frozenset[str]]]:
        """(output -> number of what goes as a whole, tags), the likeliest first. That heads are whole is told by no
        torch-pruning: where our own analysis can follow the graph it says so, else sizes of heads are tried."""
        known = self._analysis.group(seed)
        on = known.on(seed)
        if not known.stops and known.count > 1 and on is not None and (on >= 0).all():
            yield on, known.tags
            return
        yield np.arange(size), frozenset()
        makers = {member.layer for member in members if member.makes}
        if layer.op in ("MatMul", "Gemm") and len(makers) > 1:  # queries, keys and values
            for width in (width for width in range(2, size // 2 + 1) if size % width == 0):
                yield np.arange(size) // width, frozenset({HEADS})

    def _ports(self, members: Sequence[Member], classes: np.ndarray) -> dict[Port, np.ndarray]:
        """What the members are in the export: axes of weights, and of the tensors that layers read."""
        found: dict[Port, np.ndarray] = {}
        for member in members:
            layer = self.graph.layers.get(member.layer)
            if layer is None:
                continue
            label = np.full(member.size, -1)
            label[member.at] = classes[member.roots]
            found[made_by(layer) if member.makes else (layer.weight, _reading_axis(layer))] = label
            reads = read_by(self.graph, layer)
            if reads is not None and (not member.makes or member.passes):
                found[reads] = label
        return found


def _reading_axis(layer: Layer) -> int:
    """The weight's axis over what a layer reads."""
    return {"Conv": 1, "ConvTranspose": 0}.get(layer.op, 1 - layer.output_axis)
