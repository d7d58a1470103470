"""The slice heat map: the drop of every slice against the original."""

from __future__ import annotations

import plotly.graph_objects as go

from autotune.evaluation import SliceResult
from dashboards.figures import palette
from dashboards.figures.textwidth import text_width
from dashboards.info import units
from dashboards.info.slicemap import SliceColumn, SliceMap

ROW = 30  # pixels
NAME_WIDTH = 30  # characters
SIGNS = {"pass": "✓", "fail": "✗", "undecided": "?", "insufficient": "·"}
LOOKS = "≈"  # before a sign: the data are those that the trial was chosen by
WORDS = {
    "pass": "within the limit, certainly enough",
    "fail": "loses more than the limit",
    "undecided": "the data do not decide",
    "insufficient": "too few samples to say anything",
}


def slice_figure(info: SliceMap, recommended: int | None) -> go.Figure:
    """Cells say the drop in percentage points and the verdict; the step from blue to orange is the limit."""
    drops = [r.drop.value for column in info.columns for r in column.results if r is not None]
    top = max([*drops, info.limit * 2])
    columns = [_label(column, recommended) for column in info.columns]
    rows = [_row(info, index) for index in range(len(info.slices))]
    cells = [[column.results[i] for column in info.columns] for i in range(len(info.slices))]
    figure = go.Figure(
        layout=palette.base_layout(
            height=ROW * len(rows) + 90,
            xaxis={
                "side": "top",
                "type": "category",
                "showgrid": False,
                "tickfont": {"size": 12, "color": palette.INK},
                "tickangle": 0,
            },
            yaxis={
                "autorange": "reversed",
                "type": "category",
                "showgrid": False,
                "tickfont": {"size": 12, "color": palette.INK},
            },
        )
    )
    figure.add_trace(
        go.Heatmap(
            x=columns,
            y=rows,
            xgap=3,
            ygap=3,
            zmin=0,
            zmax=1,
            hoverinfo="text",
            hoverongaps=False,
            z=[[palette.drop_position(r.drop.value, info.limit, top) if r else None for r in row] for row in cells],
            text=[[_cell(column, result) for column, result in zip(info.columns, row, strict=True)] for row in cells],
            texttemplate="%{text}",
            textfont={"size": 12},
            hovertext=[
                [_hover(column, result, info.metric) for column, result in zip(info.columns, row, strict=True)]
                for row in cells
            ],
            colorscale=palette.drop_scale(palette.CELL_SCALE),
            showscale=False,
        )
    )
    return figure


def slice_width(info: SliceMap) -> int:
    """The least pixels that the map needs for the heads of its columns to stand apart."""
    lines = [line for column in info.columns for line in _label(column, None).split("<br>")]
    return 160 + round(max([84.0, *(text_width(line, 12) + 12 for line in lines)])) * len(info.columns)


def _label(column: SliceColumn, recommended: int | None) -> str:
    number = f"<b>#{column.trial} ★</b>" if column.trial == recommended else f"#{column.trial}"
    kind = palette.plain(column.label.partition(" ")[2])
    return f"{number}<br>{kind or 'mixed'}<br>{palette.plain(column.dataset)}"


def _row(info: SliceMap, index: int) -> str:
    """The name with the sample count of the first column: finalists are judged on more samples than the rest."""
    counts = [column.results[index].n for column in info.columns if column.results[index] is not None]  # type: ignore[union-attr]
    name = "all samples" if info.slices[index] == "all" else units.shorten(info.slices[index], NAME_WIDTH)
    return f"{palette.plain(name)}  <i>n={counts[0]:,}</i>" if counts else palette.plain(name)


def _cell(column: SliceColumn, result: SliceResult | None) -> str:
    if result is None:
        return ""
    looks = LOOKS if _looks(column, result) else ""
    return f"{units.points(result.drop.value, sign=True)} {looks}{SIGNS[result.verdict]}"


def _looks(column: SliceColumn, result: SliceResult) -> bool:
    """Whether the verdict is only what it looks like on search data."""
    return column.dataset != "heldout" and result.verdict in ("pass", "fail")


def _hover(column: SliceColumn, result: SliceResult | None, metric: str) -> str:
    if result is None:
        return ""
    lines = [
        f"<b>{palette.plain(result.name)}</b>, trial {palette.plain(column.label)}",
        f"{palette.plain(metric)} {units.percent(result.original.value)} → {units.percent(result.candidate.value)}",
        f"drop {units.points(result.drop.value)} points ({units.interval(result.drop, 100.0, 1)})",
        f"{result.flips_worse} samples worse, {result.flips_better} better, of {result.n:,}",
        f"looks like: {WORDS[result.verdict]}; by search data alone"
        if _looks(column, result)
        else WORDS[result.verdict],
    ]
    if result.needed:
        lines.append(f"about {result.needed:,} more samples would decide")
    return "<br>".join(lines)
