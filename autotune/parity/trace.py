"""Follow one sample through the model, node by node, on a target and on the reference.

Two distances are taken of every result that the target shows. `distance` is that from the reference's own run: it
holds what was born at this node and what was carried here. `own` is the error of this node (or of the fused nodes since
the last results that are shown) alone: the reference computes it again from the *target's* inputs. A rounding flip in a
quantised model makes every later `distance` large and no `own`; a wrong kernel makes its `own` large, wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx

from autotune.parity.distance import Gap, Kind, allowed, beyond, floor_of, gap, kind_of, permitted
from autotune.parity.exposure import Chunk
from autotune.parity.promotion import widened
from autotune.parity.reference import NoReference, Reference, Step, Values, operator
from autotune.parity.report import LayerDistance, TensorDistance, Tolerance

Arrays = dict[str, np.ndarray[Any, Any]]
RunChunk = Callable[[Chunk], Arrays]  # the target: one inference of a copy of the model that shows a chunk's results


class Truth(Protocol):
    """What results are compared with: the reference's own run, or another target's."""

    def values(self, chunk: Chunk) -> Values: ...


class ReferenceRun:
    """The reference's run of one sample, advanced chunk by chunk. Raises `NoReference`."""

    def __init__(self, reference: Reference, feed: Mapping[str, np.ndarray]) -> None:
        self._walk: Iterator[tuple[Step, Values]] = reference.walk(feed)

    def values(self, chunk: Chunk) -> Values:
        found: Values = {}
        for _ in chunk.steps:
            _, outputs = next(self._walk)
            found.update({name: value for name, value in outputs.items() if name in chunk.exposed})
        return found


class TargetRun:
    """Another target's results of the same sample."""

    def __init__(self, run: RunChunk) -> None:
        self._run = run

    def values(self, chunk: Chunk) -> Values:
        return dict(self._run(chunk))


@dataclass
class Trace:
    """What was seen along the model. `outputs` are the final outputs of each instrumented copy."""

    layers: list[LayerDistance] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)  # tensor -> what its own error was held against
    outputs: list[Arrays] = field(default_factory=list)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)  # tensor -> shown results it was computed from
    through: dict[str, tuple[int, ...]] = field(default_factory=dict)  # tensor -> numbers of the nodes since those

    @property
    def wrong(self) -> LayerDistance | None:
        """The first result whose own error is more than rounding."""
        return next((layer for layer in self.layers if layer.wrong), None)

    @property
    def crossing(self) -> LayerDistance | None:
        """The first result whose distance, carried or not, is more than rounding."""
        return next((layer for layer in self.layers if layer.diverges), None)

    def inputs(self, layer: LayerDistance) -> tuple[TensorDistance, ...]:
        """Distances of the shown results that a result was computed from."""
        seen = {one.tensor: one for one in self.layers}
        return tuple(
            TensorDistance(tensor=name, distance=seen[name].distance, mismatch=seen[name].mismatch)
            for name in self.sources.get(layer.tensor, ())
            if name in seen
        )


class _Local:
    """Values as they follow from what the target showed, and which of its results they follow from."""

    def __init__(self, reference: Reference, feed: Mapping[str, np.ndarray]) -> None:
        self.reference = reference
        self.values: Values = {**reference.constants, **{n: widened(np.asarray(a)) for n, a in feed.items()}}
        self.sources: dict[str, frozenset[str]] = {}
        self.through: dict[str, frozenset[int]] = {}
        # Results that are float16 on the target, or follow from such: a runtime may round there, or not.
        self.halves = {*reference.halves, *(n for n, a in feed.items() if np.asarray(a).dtype == np.float16)}

    def compute(self, step: Step) -> Values:
        """Outputs of a node; nothing where it or what it reads has no reference."""
        if not all(name in self.values for name in step.reads):
            return {}
        try:
            return self.reference.compute(step, self.values)
        except NoReference:
            return {}

    def behind(self, step: Step) -> tuple[frozenset[str], frozenset[int]]:
        sources = frozenset().union(*(self.sources.get(name, frozenset()) for name in step.reads))
        through = frozenset().union(*(self.through.get(name, frozenset()) for name in step.reads))
        return sources, through | {step.number}

    def made(self, step: Step, own: Values) -> None:
        """Note the outputs of a node that are computed here."""
        sources, through = self.behind(step)
        half = not self.halves.isdisjoint(step.reads)
        for name in step.writes:
            self.sources[name], self.through[name] = sources, through
            if half:
                self.halves.add(name)
            if name in own:
                self.values[name] = own[name]

    def show(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """The target has shown this result: what follows is computed from it."""
        self.values[name] = widened(array)
        self.sources[name], self.through[name] = frozenset([name]), frozenset()
        (self.halves.add if array.dtype == np.float16 else self.halves.discard)(name)


def follow(
    reference: Reference,
    feed: Mapping[str, np.ndarray],
    chunks: Sequence[Chunk],
    run: RunChunk,
    truth: Truth,
    names: Mapping[int, str],
    tolerance: Tolerance,
    finals: frozenset[str],
) -> Trace:
    """Compare everything that `chunks` show, and the final outputs `finals`."""
    trace = Trace()
    local = _Local(reference, feed)
    last = reference.last_uses()
    lenient = {step.number: permitted(step.node) for step in reference.steps}
    index = -1
    for chunk in chunks:
        shown = Chunk(chunk.steps, (*chunk.exposed, *(f for f in sorted(finals) if f not in chunk.exposed)))
        seen = run(chunk)
        trace.outputs.append({name: seen[name] for name in finals if name in seen})
        true = truth.values(shown)
        for step in chunk.steps:
            index += 1
            for name in step.reads:  # shown again by this copy: its own outputs were computed from these
                if name in seen and name in chunk.exposed:
                    local.show(name, seen[name])
            own = local.compute(step)
            inputs = [local.values.get(name) for name in step.node.input if name]
            local.made(step, own)
            for name in step.writes:
                if name not in seen or name not in shown.exposed:
                    continue
                if name in true:
                    sources, through = local.sources[name], local.through[name]
                    limit = allowed(name in local.halves or seen[name].dtype == np.float16, tolerance)
                    lax = max(limit, sum(lenient.get(number, 0.0) for number in through))
                    layer = _layer(step, name, seen[name], true[name], own, inputs, names, tolerance, limit, lax)
                    if not own:
                        layer = layer.model_copy(update={"wrong": layer.diverges and _agree(trace, sources)})
                    trace.layers.append(layer)
                    trace.limits[name] = lax if layer.wrong else limit
                    trace.sources[name] = tuple(sorted(sources))
                    trace.through[name] = tuple(sorted(through))
                local.show(name, seen[name])
            for name in last.get(index, ()):
                local.values.pop(name, None)
    return trace


def _layer(
    step: Step, name: str, found: np.ndarray[Any, Any], true: Any, own: Values, inputs: list[Any],
    names: Mapping[int, str], tolerance: Tolerance, limit: float, lax: float,
) -> LayerDistance:  # fmt: skip
    """`limit` is what is rounding for the distance, `lax` for the own error: with what operators permit."""
    op = step.node.op_type
    kind = kind_of(found, op)
    floor = floor_of(op, inputs)
    away = gap(found, _as(true), floor=floor)
    alone = gap(found, _as(own[name]), floor=floor) if name in own else None
    return LayerDistance(
        index=step.number,
        node=step.node.name or name,
        op=operator(step.node),
        layer=names.get(step.number, ""),
        tensor=name,
        kind=kind,
        distance=away.distance,
        own=None if alone is None else alone.distance if kind == "float" else alone.share,
        flipped=0.0 if kind == "float" else away.share,
        mismatch=away.mismatch,
        diverges=beyond(away, kind, limit, tolerance),
        wrong=alone is not None and _wrong(alone, kind, lax, lax > limit, tolerance),
    )


def _wrong(alone: Gap, kind: Kind, lax: float, permitted: bool, tolerance: Tolerance) -> bool:
    """Whether the error of a node (or of what is fused into one kernel) is no rounding.

    Where an operator on the way may round by itself, most levels after it are off by one or two: then it counts how
    far off they are, not how many.
    """
    if kind == "levels" and permitted and not alone.mismatch and alone.distance is not None:
        return alone.distance > lax
    return beyond(alone, kind, lax, tolerance)


def _agree(trace: Trace, sources: frozenset[str]) -> bool:
    """Without a reference of the node, it is to blame when all that goes into it agrees."""
    return not any(layer.diverges for layer in trace.layers if layer.tensor in sources)


def _as(value: Any) -> Any:
    return widened(value) if isinstance(value, np.ndarray) else value


def nodes_of(model: onnx.ModelProto, numbers: Sequence[int]) -> tuple[str, ...]:
    """`Conv block`, for the given nodes."""
    nodes = model.graph.node
    return tuple(f"{operator(nodes[n])} {nodes[n].name or nodes[n].output[0]}" for n in numbers)
