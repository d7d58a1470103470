"""The layer map: layers by depth as rows, finalists as columns, shares of parameters and time beside them."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboards.figures import palette
from dashboards.figures.textwidth import text_width
from dashboards.info import units
from dashboards.info.layermap import LayerMap, LayerRow

ROW = 22  # pixels
DENSE_ROW = 14
DENSE_FROM = 60  # layers
NAME_WIDTH = 46  # characters
PAGE = 1060  # pixels that the map has on a wide page
LEAST_CELL = 96  # pixels; with more columns than have room at that, the map scrolls
_CELLS = 0.66  # share of the width, without the names of layers, that is the cells'
_AROUND = 14  # pixels around a cell's text


def layer_figure(info: LayerMap, recommended: int | None) -> go.Figure:
    """A cell is coloured by the format; the bars say how much the layer matters for size and for time."""
    colours = palette.choice_colours(info.choices)
    order = list(colours)
    row_height = DENSE_ROW if len(info.rows) > DENSE_FROM else ROW
    room = _room(info)
    names = _labels(info.rows)
    columns = [_column(number, recommended) for number in info.trials]
    figure = go.Figure(layout=_layout(info, row_height))
    figure.add_trace(
        go.Heatmap(
            x=columns,
            y=names,
            z=[[order.index(choice) for choice in row.choices] for row in info.rows],
            text=[[_cell(row, i, room, _letter(info)) for i in range(len(columns))] for row in info.rows],
            hovertext=[[_hover(row, i, info.trials[i]) for i in range(len(columns))] for row in info.rows],
            texttemplate="%{text}",
            textfont={"size": _letter(info)},
            hoverinfo="text",
            zmin=-0.5,
            zmax=len(order) - 0.5,
            colorscale=_steps([colours[choice] for choice in order]),
            showscale=False,
            xgap=3,
            ygap=1,
        )
    )
    figure.add_trace(_bars(info.rows, names, "parameters", "x2", palette.SERIES[6]))
    figure.add_trace(_bars(info.rows, names, "time", "x3", palette.SERIES[2]))
    return figure


def layer_width(info: LayerMap) -> int:
    """The least pixels that the map needs for its cells to hold their texts."""
    return round(_names_width(info) + (_room(info) + _AROUND) * len(info.trials) / _CELLS)


def _letter(info: LayerMap) -> int:
    return 9 if len(info.rows) > DENSE_FROM else 11


def _names_width(info: LayerMap) -> float:
    return max((text_width(name, _letter(info)) for name in _labels(info.rows)), default=0.0) + 24


def _room(info: LayerMap) -> float:
    """Pixels of a cell's text: as many as the longest needs, unless the map would then be wider than the page."""
    texts = [_cell(row, i, 1e9, _letter(info)) for row in info.rows for i in range(len(info.trials))]
    longest = max((text_width(text, _letter(info)) for text in texts), default=0.0)
    fair = (PAGE - _names_width(info)) * _CELLS / max(1, len(info.trials)) - _AROUND
    return min(longest, max(fair, LEAST_CELL)) + 0.01


def _layout(info: LayerMap, row_height: int) -> go.Layout:
    parameters = [row.parameter_share for row in info.rows]
    times = [row.time_share for row in info.rows]
    share: dict[str, Any] = {
        "side": "top",
        "showgrid": False,
        "showticklabels": False,
        "fixedrange": True,
    }
    return palette.base_layout(
        height=row_height * len(info.rows) + 60,
        xaxis={
            "domain": [0, _CELLS],
            "side": "top",
            "type": "category",
            "showgrid": False,
            "tickfont": {"size": 13, "color": palette.INK},
        },
        xaxis2={
            "domain": [0.69, 0.83],
            "title": {"text": "parameters"},
            "range": _range(parameters),
            **share,
        },
        xaxis3={"domain": [0.86, 1.0], "title": {"text": "time"}, "range": _range(times), **share},
        yaxis={
            "autorange": "reversed",
            "type": "category",
            "showgrid": False,
            "tickfont": {"size": _letter(info)},
        },
        margin={"l": 8, "r": 8, "t": 46, "b": 8},
        barmode="overlay",
        bargap=0.35,
    )


def _range(shares: list[float | None]) -> list[float]:
    """In percent, with room for the label of the longest bar."""
    return [0.0, max((share or 0.0 for share in shares), default=0.0) * 150 or 1.0]


def _bars(rows: tuple[LayerRow, ...], names: list[str], what: str, axis: str, colour: str) -> go.Bar:
    shares = [row.parameter_share if what == "parameters" else row.time_share for row in rows]
    return go.Bar(
        y=names,
        x=[(share or 0.0) * 100 for share in shares],
        orientation="h",
        xaxis=axis,
        yaxis="y",
        marker={"color": colour},
        showlegend=False,
        cliponaxis=False,
        textposition="outside",
        text=[units.percent(share) if share is not None and share >= 0.03 else "" for share in shares],
        textfont={"size": 10, "color": palette.MUTED},
        hoverinfo="text",
        hovertext=[_share_hover(row, share, what) for row, share in zip(rows, shares, strict=True)],
    )


def _share_hover(row: LayerRow, share: float | None, what: str) -> str:
    amount = "not known" if share is None else f"{units.percent(share)} of the searchable layers' {what}"
    count = f"<br>{row.parameters:,} parameters" if row.parameters is not None and what == "parameters" else ""
    return f"<b>{palette.plain(row.name)}</b><br>{amount}{count}"


def _labels(rows: tuple[LayerRow, ...]) -> list[str]:
    """Short names; the number of the row keeps names apart that are equal once shortened."""
    shown = [units.shorten(row.name, NAME_WIDTH) for row in rows]
    return [
        palette.plain(name if shown.count(name) == 1 else f"{name} ({index + 1})") for index, name in enumerate(shown)
    ]


def _column(number: int, recommended: int | None) -> str:
    return f"<b>#{number} ★</b>" if number == recommended else f"#{number}"


def _name(choice: str) -> str:
    return "original" if choice == "none" else palette.plain(choice)


def _cell(row: LayerRow, column: int, room: float, letter: float) -> str:
    """The choice, whole where `room` pixels hold it, else without its middle."""
    choice = row.choices[column]
    mark = " ⚠" if row.mismatched[column] else ""
    if choice == "none":
        return mark.strip()
    for count in range(len(choice), 3, -1):
        text = palette.plain(units.shorten(choice, count)) + mark
        if text_width(text, letter) <= room:
            return text
    return mark.strip()


def _hover(row: LayerRow, column: int, number: int) -> str:
    lines = [
        f"<b>{palette.plain(row.name)}</b> {palette.plain(row.op)}".rstrip(),
        f"trial {number}: {_name(row.choices[column])}",
    ]
    if row.ran[column]:
        lines.append(f"ran as {palette.plain(row.ran[column])}")
    if row.mismatched[column]:
        lines.append("⚠ something else ran than was asked for")
    return "<br>".join(lines)


def _steps(colours: list[str]) -> list[list[Any]]:
    """A colour scale of flat steps, one per choice."""
    count = len(colours)
    scale: list[list[Any]] = []
    for index, colour in enumerate(colours):
        scale += [[index / count, colour], [(index + 1) / count, colour]]
    return scale
