"""A parity report ready to be drawn: one curve per target along the layers."""

from __future__ import annotations

from typing import NamedTuple

from autotune.parity.report import LayerDistance, ParityReport, TargetParity

FLOOR = 1e-9  # an exact zero has no place on a logarithmic axis; it is drawn here
CEILING = 10.0  # what no number can tell (NaN, another shape) is drawn here


class Step(NamedTuple):
    """One result along the model. `distance` and `own` are what is drawn, within FLOOR and CEILING."""

    place: int  # 1, 2, ... in execution order
    layer: LayerDistance
    distance: float
    own: float | None


class Curve(NamedTuple):
    """One target along the model; `first` is the step where it diverges."""

    target: str
    steps: tuple[Step, ...]
    first: Step | None


def curves(report: ParityReport) -> tuple[Curve, ...]:
    """Of every target whose layers were followed. Places are the same for all targets."""
    tensors = dict.fromkeys(layer.tensor for target in report.targets for layer in target.layers)
    places = {tensor: place for place, tensor in enumerate(tensors, 1)}
    return tuple(_curve(target, places) for target in report.targets if target.layers)


def _curve(target: TargetParity, places: dict[str, int]) -> Curve:
    steps = tuple(
        Step(places[layer.tensor], layer, _drawn(layer.distance), None if layer.own is None else _drawn(layer.own))
        for layer in target.layers
        if layer.kind != "exact" or layer.diverges  # equal shapes and indices would be holes in the curve
    )
    first = target.first.where.tensor if target.first is not None else None
    return Curve(target.target, steps, next((step for step in steps if step.layer.tensor == first), None))


def _drawn(distance: float | None) -> float:
    return CEILING if distance is None else min(max(distance, FLOOR), CEILING)


def outstanding(curve: Curve, count: int) -> tuple[Step, ...]:
    """The steps worth a row in a table: the first that diverges and those with the largest own error, in order."""
    chosen = sorted(curve.steps, key=lambda step: -(step.own or 0.0))[:count]
    if curve.first is not None and curve.first not in chosen:
        chosen.append(curve.first)
    return tuple(sorted(chosen))
