"""Models on targets: a panel per target on one common axis, so that lengths may be compared across all of them.

Nothing is told by colour alone: what is best, tied or not decided stands beside each point in words, and shapes
differ in their symbols.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures import palette
from dashboards.info.compare import Chart, Panel, Point

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
_ROW = 30  # pixels of one model in one shape
_TITLE = 34  # pixels of the name of a target
_AXIS = 56
_LABELS = 0.34  # share of the width of the axis that is kept for the labels on the right
_LONGEST_NAME = 34


def dots_figure(chart: Chart) -> go.Figure:
    """Points with their intervals; further left is better."""
    figure = _panels(chart)
    for row, panel in enumerate(chart.panels, 1):
        for index, shape in enumerate(chart.shapes):
            points = [point for point in panel.points if point.shape == shape]
            if points:
                figure.add_trace(_dots(chart, points, index), row=row, col=1)
    return figure


def bars_figure(chart: Chart) -> go.Figure:
    """Bars from zero; shorter is better. For numbers without an interval."""
    figure = _panels(chart)
    for row, panel in enumerate(chart.panels, 1):
        points = panel.points
        bars = go.Bar(
            y=[_place(chart, point) for point in points],
            x=[point.value for point in points],
            orientation="h",
            width=0.55,
            marker={
                "color": [palette.SERIES[0] if _stands_out(point) else palette.FAINT for point in points],
                "line": {"width": 0},
            },
            text=[palette.plain(point.label) for point in points],
            textposition="outside",
            textfont={"size": 12, "color": palette.MUTED},
            cliponaxis=False,
            hoverinfo="text",
            hovertext=[_hover(panel, point) for point in points],
            showlegend=False,
        )
        figure.add_trace(bars, row=row, col=1)
    return figure


def _panels(chart: Chart) -> go.Figure:
    count = len(chart.panels)
    rows = max(1, len(chart.shapes)) if chart.name in ("latency", "cost") else 1
    inner = _ROW * len(chart.models) * (1 + 0.55 * (rows - 1))
    height = count * (inner + _TITLE) + _AXIS
    plot = height - _AXIS
    figure = make_subplots(rows=count, cols=1, shared_xaxes=True, vertical_spacing=_TITLE / plot if count > 1 else 0)
    margin = {"l": 8, "r": 8, "t": _TITLE, "b": _AXIS - 8}
    layout = palette.base_layout(height=height, showlegend=False, margin=margin)
    figure.update_layout(layout)
    figure.layout.template = layout.template  # instead of the library's own, with which `update_layout` merges it
    axis = _axis(chart)
    for row, panel in enumerate(chart.panels, 1):
        figure.update_yaxes(
            row=row,
            col=1,
            tickvals=list(range(len(chart.models))),
            ticktext=[palette.plain(_short(name)) for name in chart.models],
            range=[len(chart.models) - 0.5, -0.5],
            tickfont={"size": 12, "color": palette.INK},
            showgrid=False,
        )
        last = row == count
        figure.update_xaxes(row=row, col=1, showticklabels=last, title=_title(chart) if last else None, **axis)
        figure.add_trace(_absent(chart, panel), row=row, col=1)
        suffix = "" if row == 1 else str(row)
        figure.add_annotation(
            text=f"<b>{palette.plain(panel.target, 60)}</b>",
            x=0,
            xref="paper",
            xanchor="left",
            y=1,
            yref=f"y{suffix} domain",
            yanchor="bottom",
            yshift=4,
            showarrow=False,
            font={"size": 13, "color": palette.INK},
        )
    return figure


def _axis(chart: Chart) -> dict[str, Any]:
    """One range for all panels, with room for the labels on the right."""
    points = [point for panel in chart.panels for point in panel.points]
    high = max(point.high for point in points) or 1.0
    if not _logarithmic(chart):
        return {"range": [0, high / (1 - _LABELS)]}
    low = max(min(point.low for point in points), min(point.value for point in points) / 10)
    bottom, top = math.log10(low / 1.3), math.log10(high)
    top += (top - bottom) * _LABELS / (1 - _LABELS)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(bottom), math.ceil(top) + 1)
        for step in ((1, 2, 5) if top - bottom < 3 else (1,))
        if bottom <= math.log10(step * 10.0**power) <= top
    ]
    return {"type": "log", "range": [bottom, top], "tickvals": ticks, "ticktext": [f"{tick:,.6g}" for tick in ticks]}


def _title(chart: Chart) -> dict[str, Any]:
    unit = palette.plain(chart.unit or "the unit of the prices")
    kind = ", logarithmic" if _logarithmic(chart) else ""
    return {"text": f"{chart.title.lower()}, {unit}{kind}"}


def _dots(chart: Chart, points: list[Point], index: int) -> go.Scatter:
    colour, symbol = palette.SERIES[index % len(palette.SERIES)], SYMBOLS[index % len(SYMBOLS)]
    return go.Scatter(
        x=[point.value for point in points],
        y=[_place(chart, point) for point in points],
        mode="markers+text",
        name=palette.plain(points[0].shape),
        text=[_room(chart, point) + palette.plain(point.label) for point in points],
        textposition="middle right",
        textfont={"size": 12, "color": palette.MUTED},
        cliponaxis=False,
        hoverinfo="text",
        hovertext=[_hover(None, point) for point in points],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [point.high - point.value for point in points],
            "arrayminus": [point.value - point.low for point in points],
            "color": palette.EDGE,
            "thickness": 1.5,
            "width": 4,
        },
        marker={
            "symbol": [symbol if _stands_out(point) else f"{symbol}-open" for point in points],
            "size": 11,
            "color": colour,
            "line": {"width": 1.8, "color": colour},
        },
    )


def _absent(chart: Chart, panel: Panel) -> go.Scatter:
    """Words in the place of a model that has no number on this target."""
    there = {point.model for point in panel.points}
    absent = [index for index, model in enumerate(chart.models) if model not in there]
    edge = _axis(chart)["range"][0]
    return go.Scatter(
        x=[10**edge * 1.0001 if _logarithmic(chart) else edge] * len(absent),  # a point on the very edge is not drawn
        y=absent,
        mode="text",
        text=["\u00a0\u00a0not measured"] * len(absent),
        textposition="middle right",
        textfont={"size": 12, "color": palette.MUTED},
        hoverinfo="skip",
    )


def _logarithmic(chart: Chart) -> bool:
    """Bars start at zero, which a logarithmic axis does not have."""
    return chart.logarithmic and chart.name != "memory"


def _room(chart: Chart, point: Point) -> str:
    """Space between a point and its label, as wide as the right half of its interval."""
    low, high = (float(end) for end in _axis(chart)["range"])
    width = high - low
    half = math.log10(point.high / point.value) if _logarithmic(chart) else point.high - point.value
    return "\u00a0" * (2 + round(220 * half / width))


def _place(chart: Chart, point: Point) -> float:
    """Height of a point: its model's, shifted by its shape."""
    shapes = len(chart.shapes)
    shift = 0.0 if shapes < 2 else (chart.shapes.index(point.shape) - (shapes - 1) / 2) * 0.8 / shapes
    return chart.models.index(point.model) + shift


def _stands_out(point: Point) -> bool:
    return point.standing in ("best", "tie", "undecided", "short")


def _hover(panel: Panel | None, point: Point) -> str:
    where = f"{palette.plain(point.model)}{f' on {palette.plain(panel.target)}' if panel else ''}"
    shape = f"<br>shape {palette.plain(point.shape)}" if point.shape else ""
    interval = f"<br>95 % interval {point.low:.4g} to {point.high:.4g}" if point.low < point.high else ""
    return f"<b>{where}</b>{shape}<br>{palette.plain(point.label)}{interval}"


def _short(name: str) -> str:
    """The middle goes: names of models differ at their ends."""
    if len(name) <= _LONGEST_NAME:
        return name
    head = (_LONGEST_NAME - 1) // 2
    return f"{name[:head]}…{name[len(name) - (_LONGEST_NAME - 1 - head) :]}"
