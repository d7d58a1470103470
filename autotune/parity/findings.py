"""From what was seen along the model to the first layer that diverges, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotune.parity import exposure, words
from autotune.parity.distance import gap
from autotune.parity.exposure import Chunk, Sizes
from autotune.parity.report import Divergence, LayerDistance, Tolerance
from autotune.parity.subject import Feed, Subject
from autotune.parity.trace import Arrays, ReferenceRun, RunChunk, TargetRun, Trace, follow, nodes_of

Run = Callable[[Path, Feed], Arrays]
_INPUTS_SHOWN = 4


class Traced(NamedTuple):
    """What one sample tells about one target."""

    layers: tuple[LayerDistance, ...]
    first: Divergence | None
    exposed_equal: bool | None
    notes: tuple[str, ...]


def find(
    subject: Subject,
    feed: Feed,
    run: Run,
    sizes: Sizes,
    shipped: Mapping[str, np.ndarray[Any, Any]],
    folder: Path,
    tolerance: Tolerance,
    *,
    baseline: Run | None = None,
) -> Traced:
    """Follow one sample. `shipped` are the outputs of the model as it is; `baseline` stands in for the reference.

    Raises hardware errors.
    """

    reference = subject.reference

    def trace(shown: frozenset[str]) -> Trace:
        cut = exposure.chunks(reference, shown, sizes)
        target = _exposing(subject, feed, run, folder)
        other = None if baseline is None else TargetRun(_exposing(subject, feed, baseline, folder))
        truth = other or ReferenceRun(reference, feed)
        return follow(reference, feed, cut, target, truth, subject.names, tolerance, frozenset(subject.outputs))

    full = trace(exposure.everything(reference, sizes))
    first = _operator(full)
    if _same(full, shipped):
        return Traced(tuple(full.layers), first or _rounding(full), True, ())
    seams = trace(exposure.seams(reference, sizes))
    first = first or _fused(subject, seams) or _rounding(full) or _rounding(seams, fused=True)
    return Traced(tuple(full.layers), first, False, _notes(full, seams, shipped))


def _exposing(subject: Subject, feed: Feed, run: Run, folder: Path) -> RunChunk:
    """One inference of a copy that shows the results of a chunk."""

    def expose(chunk: Chunk) -> Arrays:
        path = exposure.write_exposed(subject.proto, chunk.exposed, folder / "exposed.onnx")
        try:
            return run(path, feed)
        finally:
            path.unlink(missing_ok=True)

    return expose


def _operator(trace: Trace) -> Divergence | None:
    layer = trace.wrong
    if layer is None:
        return None
    inputs = trace.inputs(layer)
    told = [f"{one.tensor} {one.mismatch or words.amount(one.distance)}" for one in inputs[:_INPUTS_SHOWN]]
    limit = trace.limits[layer.tensor]
    return Divergence(
        where=layer, inputs=inputs, cause="operator", tolerance=limit, explanation=words.of_operator(layer, limit, told)
    )


def _fused(subject: Subject, trace: Trace) -> Divergence | None:
    layer = trace.wrong
    if layer is None:
        return None
    limit = trace.limits[layer.tensor]
    nodes = nodes_of(subject.proto, trace.through[layer.tensor])
    return Divergence(
        where=layer,
        inputs=trace.inputs(layer),
        cause="operator",
        only_when_fused=True,
        nodes=nodes,
        tolerance=limit,
        explanation=words.of_fusion(layer, limit, nodes),
    )


def _rounding(trace: Trace, *, fused: bool = False) -> Divergence | None:
    layer = trace.crossing
    if layer is None:
        return None
    own = max((one.own for one in trace.layers if one.own is not None and one.kind == "float"), default=0.0)
    flipped = max((one.flipped for one in trace.layers if one.kind == "levels"), default=0.0)
    return Divergence(
        where=layer,
        inputs=trace.inputs(layer),
        cause="rounding",
        only_when_fused=fused,
        tolerance=trace.limits[layer.tensor],
        explanation=words.of_rounding(layer, own, flipped),
    )


def _notes(full: Trace, seams: Trace, shipped: Mapping[str, np.ndarray[Any, Any]]) -> tuple[str, ...]:
    """How much the copies say about the model as it is."""
    gaps = [gap(array, shipped[name]) for outputs in full.outputs for name, array in outputs.items()]
    away = max((one.distance or 0.0 for one in gaps), default=0.0)
    first = (
        "showing every intermediate result stops fusions and changes the outputs by "
        f"{words.amount(away)}; the distances along the layers are those of that copy"
    )
    if not _same(seams, shipped):
        second = "a copy that shows results between kernels only is not bit for bit the model as shipped either"
    elif seams.wrong is None:
        second = (
            "a copy that shows results between kernels only gives the shipped outputs, and no kernel of it is wrong"
        )
    else:
        second = "a copy that shows results between kernels only gives the shipped outputs, and has a wrong kernel"
    return first, second


def _same(trace: Trace, shipped: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    """Whether every copy gave the outputs of the model as shipped."""
    return all(gap(array, shipped[name]).unequal == 0 for outputs in trace.outputs for name, array in outputs.items())
