"""Distance from the reference along the layers: a line per target, and the own error of every node as points."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from dashboards.figures import palette
from dashboards.info import units
from dashboards.info.parity import CEILING, FLOOR, Curve, Step

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")


def layers_figure(found: tuple[Curve, ...], tolerance: float) -> go.Figure:
    """Logarithmic; what is exactly equal lies on the lower edge, what no number can tell on the upper one."""
    powers = list(range(-9, 2))
    figure = go.Figure(
        layout=palette.base_layout(
            height=460,
            xaxis={"title": {"text": "intermediate results in execution order"}, "rangemode": "tozero"},
            yaxis={
                "title": {"text": "relative L2 distance"},
                "type": "log",
                "range": [-9.3, 1.3],
                "tickvals": [10.0**p for p in powers],
                "ticktext": [_tick(10.0**p) for p in powers],
            },
            margin={"l": 8, "r": 8, "t": 56, "b": 8},
        )
    )
    figure.add_hline(y=tolerance, line={"color": palette.FAINT, "width": 1, "dash": "dot"})
    figure.add_annotation(
        text="tolerance of a float32 layer",
        x=1,
        xref="paper",
        xanchor="right",
        y=math.log10(tolerance),  # annotations of a logarithmic axis are placed by the power
        yanchor="top",
        showarrow=False,
        font={"size": 12, "color": palette.MUTED},
    )
    for index, curve in enumerate(found):
        colour = palette.SERIES[index % len(palette.SERIES)]
        name = palette.plain(curve.target)
        figure.add_trace(
            go.Scatter(
                x=[step.place for step in curve.steps],
                y=[step.distance for step in curve.steps],
                mode="lines",
                name=f"{name}: carried and own",
                line={"color": colour, "width": 2, "dash": _DASHES[index % len(_DASHES)]},
                hoverinfo="text",
                hovertext=[_hover(curve, step) for step in curve.steps],
            )
        )
        alone = [step for step in curve.steps if step.own is not None]
        figure.add_trace(
            go.Scatter(
                x=[step.place for step in alone],
                y=[step.own for step in alone],
                mode="markers",
                name=f"{name}: own error of each node",
                marker={"color": colour, "size": 5, "symbol": _SYMBOLS[index % len(_SYMBOLS)], "opacity": 0.6},
                hoverinfo="text",
                hovertext=[_hover(curve, step) for step in alone],
            )
        )
    for curves_there in firsts(found):
        figure.add_trace(_first(curves_there))
    return figure


def firsts(found: tuple[Curve, ...]) -> list[list[Curve]]:
    """Targets that diverge, together where they do so at the same result: their labels would lie on each other."""
    groups: dict[int, list[Curve]] = {}
    for curve in found:
        if curve.first is not None:
            groups.setdefault(curve.first.place, []).append(curve)
    return list(groups.values())


def _first(there: list[Curve]) -> go.Scatter:
    steps = [curve.first for curve in there if curve.first is not None]
    highest = max(steps, key=lambda step: step.distance)
    names = ", ".join(curve.target for curve in there)
    left = highest.place > max(len(curve.steps) for curve in there) / 2
    return go.Scatter(
        x=[step.place for step in steps],
        y=[step.distance for step in steps],
        mode="markers+text",
        text=[
            palette.plain(f"{names}: {step.layer.layer or step.layer.node}", 64) if step is highest else ""
            for step in steps
        ],
        textposition="top left" if left else "top right",
        textfont={"size": 12, "color": palette.INK},
        marker={"color": palette.MARK_SCALE[3], "size": 13, "symbol": "circle-open", "line": {"width": 2.5}},
        name="first that diverges",
        showlegend=False,
        hoverinfo="text",
        hovertext=[_hover(curve, step) for curve, step in zip(there, steps, strict=True)],
    )


def _tick(value: float) -> str:
    if value <= FLOOR:
        return "equal"
    if value >= CEILING:
        return "NaN, shape"
    if value >= 1e-3:
        return f"{value * 100:g} %"
    return f"{value:.0e}"


def _hover(curve: Curve, step: Step) -> str:
    layer = step.layer
    lines = [
        f"<b>{palette.plain(layer.op)} {palette.plain(layer.node, 60)}</b> on {palette.plain(curve.target)}",
        f"layer {palette.plain(layer.layer, 60)}" if layer.layer else "",
        f"result {palette.plain(layer.tensor, 60)}",
        f"distance {palette.plain(layer.mismatch) or units.number(layer.distance or 0.0, 2)}",
        "" if layer.own is None else f"own error {units.number(layer.own, 2)}",
        f"{units.percent(layer.flipped)} of the elements differ" if layer.flipped else "",
    ]
    return "<br>".join(line for line in lines if line)
