"""One model for all targets: time and size of it and of each target's own best, a row per target."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.trial import Value
from dashboards.figures import palette
from dashboards.info import units
from dashboards.info.targets import TargetRow, TargetsInfo

MB = 1e6
_ROW = 62  # pixels of one target
_LABELS = 0.42  # share of the time axis that is kept for the words on its right
_COMMON, _OWN = palette.SERIES[0], palette.EDGE


def targets_figure(info: TargetsInfo) -> go.Figure:
    """Time per inference (original = 1) on the left, size on the right; further left is better in both."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, column_widths=[0.68, 0.32], horizontal_spacing=0.04)
    margin = {"l": 8, "r": 8, "t": 48, "b": 8}
    layout = palette.base_layout(height=_ROW * len(info.rows) + 110, margin=margin)
    figure.update_layout(layout)
    figure.layout.template = layout.template  # instead of the library's own, with which `update_layout` merges it
    names = [palette.plain(row.target, 28) for row in info.rows]
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6], showgrid=False,
        tickfont={"size": 13, "color": palette.INK},
    )  # fmt: skip
    times = [v for row in info.rows for v in (row.time_common, row.time_own) if v is not None]
    low, high = min((v.low for v in times), default=0.0), max((v.high for v in times), default=1.0)
    room = max(high - low, 0.02 * high)
    start = max(0.0, low - 0.15 * room)
    end = start + (high + 0.05 * room - start) / (1 - _LABELS)
    figure.update_xaxes(range=[start, end], title={"text": "time per inference, original = 1"}, row=1, col=1)
    sizes = [size / MB for row in info.rows for size in (row.size_common, row.size_own) if size is not None]
    figure.update_xaxes(range=[0, max([*sizes, 1e-6]) * 1.25], title={"text": "model file, MB"}, row=1, col=2)
    for index, row in enumerate(info.rows):
        _bridge(figure, index, row)
    figure.add_trace(_marks(info, own=True), row=1, col=1)
    figure.add_trace(_marks(info, own=False), row=1, col=1)
    figure.add_trace(_said(info), row=1, col=1)
    figure.add_trace(_sizes(info, own=True), row=1, col=2)
    figure.add_trace(_sizes(info, own=False), row=1, col=2)
    return figure


def _bridge(figure: go.Figure, index: int, row: TargetRow) -> None:
    """A line from the own best to the common model, in both pictures."""
    line = {"color": palette.FAINT, "width": 3}
    if row.time_common is not None and row.time_own is not None:
        ends = [row.time_own.value, row.time_common.value]
        figure.add_trace(_line(ends, index, line), row=1, col=1)
    if row.size_common is not None and row.size_own is not None:
        figure.add_trace(_line([row.size_own / MB, row.size_common / MB], index, line), row=1, col=2)


def _line(ends: list[float], index: int, line: dict[str, Any]) -> go.Scatter:
    return go.Scatter(x=ends, y=[index, index], mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _marks(info: TargetsInfo, *, own: bool) -> go.Scatter:
    placed = [(i, row, row.time_own if own else row.time_common) for i, row in enumerate(info.rows)]
    known = [(i, row, value) for i, row, value in placed if value is not None]
    return go.Scatter(
        x=[value.value for _, _, value in known],
        y=[i for i, _, _ in known],
        mode="markers",
        name="best for this target alone" if own else f"trial {info.common}, the one model for all",
        cliponaxis=False,
        hoverinfo="text",
        hovertext=[_hover(row, value, own=own) for _, row, value in known],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [value.high - value.value for _, _, value in known],
            "arrayminus": [value.value - value.low for _, _, value in known],
            "color": palette.FAINT if own else palette.EDGE,
            "thickness": 1.5,
            "width": 4,
        },
        marker=_marker(own=own),
    )


def _sizes(info: TargetsInfo, *, own: bool) -> go.Scatter:
    placed = [(i, row, row.size_own if own else row.size_common) for i, row in enumerate(info.rows)]
    known = [(i, row, size) for i, row, size in placed if size is not None]
    return go.Scatter(
        x=[size / MB for _, _, size in known],
        y=[i for i, _, _ in known],
        mode="markers",
        showlegend=False,
        cliponaxis=False,
        hoverinfo="text",
        hovertext=[f"<b>{palette.plain(row.target)}</b><br>{units.size(size)}" for _, row, size in known],
        marker=_marker(own=own),
    )


def _marker(*, own: bool) -> dict[str, Any]:
    """The own best as a ring around the common model, so that both are seen where they are one."""
    if own:
        return {"symbol": "circle-open", "size": 18, "color": _OWN, "line": {"width": 2}}
    return {"symbol": "circle", "size": 10, "color": _COMMON, "line": {"width": 1, "color": palette.SURFACE}}


def _said(info: TargetsInfo) -> go.Scatter:
    """The difference in words, behind everything that is drawn for a target."""
    ends = [max((v.high for v in (row.time_common, row.time_own) if v is not None), default=0.0) for row in info.rows]
    return go.Scatter(
        x=ends,
        y=list(range(len(info.rows))),
        mode="text",
        text=["\u00a0" * 3 + _words(row) for row in info.rows],
        textposition="middle right",
        textfont={"size": 12, "color": palette.MUTED},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )


def _words(row: TargetRow) -> str:
    if row.own is None:
        return "no own best"
    if row.change is None:
        return "its own best"
    if row.tie:
        return f"a tie with #{row.own}"
    word = "slower" if row.change.value > 0 else "faster"
    return f"{units.percent(abs(row.change.value))} {word} than #{row.own}"


def _hover(row: TargetRow, value: Value, *, own: bool) -> str:
    name = f"#{row.own}, best on {palette.plain(row.target)}" if own else palette.plain(row.target)
    return f"<b>{name}</b><br>time {units.factor(value.value)} ({units.interval(value)})"
