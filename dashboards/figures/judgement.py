"""The forest plot: the drop of every slice with its interval, against what it may lose."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboards.figures import palette
from dashboards.figures.slicemap import WORDS
from dashboards.info import units
from dashboards.info.judgement import JudgedSlice, Judgement

ROW = 26  # pixels
NAME_WIDTH = 34  # characters
_COLOURS = {
    "pass": palette.MARK_SCALE[0],
    "fail": palette.MARK_SCALE[3],
    "undecided": palette.MUTED,
    "insufficient": palette.FAINT,
}
_SYMBOLS = {"pass": "circle", "fail": "x", "undecided": "circle-open", "insufficient": "circle-open-dot"}
_NAMES = {"pass": "passes", "fail": "fails", "undecided": "undecided", "insufficient": "too few samples"}


def forest_figure(info: Judgement) -> go.Figure:
    """One row per slice, the worst on top under the whole: point and 95 % interval in percentage points, the limit of
    each slice as a bar, and the noise floor as a grey band around zero."""
    labels = [_label(row) for row in info.rows]
    places = list(range(len(labels)))
    figure = go.Figure(
        layout=palette.base_layout(
            height=ROW * len(labels) + 92,
            xaxis={
                "title": {"text": "drop against the original, percentage points"},
                "zeroline": True,
                "zerolinecolor": palette.FAINT,
                "range": _range(info),
            },
            yaxis={
                "tickvals": places,
                "ticktext": labels,
                "range": [len(labels) - 0.4, -0.6],
                "showgrid": False,
                "tickfont": {"size": 12, "color": palette.INK},
            },
        )
    )
    noisy = [(i, row.result.noise) for i, row in enumerate(info.rows) if row.result.noise]
    if noisy:
        figure.add_trace(
            go.Bar(
                orientation="h",
                name="noise: the original against itself",
                y=[i for i, _ in noisy],
                x=[200 * noise for _, noise in noisy],
                base=[-100 * noise for _, noise in noisy],
                marker={"color": palette.GRID, "line": {"width": 0}},
                width=0.8,
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            name="limit",
            x=[100 * row.limit for row in info.rows],
            y=places,
            mode="markers",
            marker={
                "symbol": "line-ns",
                "size": ROW - 10,
                "line": {"width": 2.5, "color": palette.MARK_SCALE[2]},
                "color": palette.MARK_SCALE[2],
            },
            hoverinfo="skip",
        )
    )
    for verdict, colour in _COLOURS.items():
        rows = [(i, row) for i, row in enumerate(info.rows) if row.result.verdict == verdict]
        if not rows:
            continue
        drops = [row.result.drop for _, row in rows]
        figure.add_trace(
            go.Scatter(
                name=_NAMES[verdict],
                x=[100 * drop.value for drop in drops],
                y=[i for i, _ in rows],
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": _SYMBOLS[verdict],
                    "size": 10,
                    "line": {"width": 2, "color": colour},
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (drop.high - drop.value) for drop in drops],
                    "arrayminus": [100 * (drop.value - drop.low) for drop in drops],
                    "color": colour,
                    "thickness": 2,
                    "width": 0,
                },
                hoverinfo="text",
                hovertext=[_hover(row) for _, row in rows],
            )
        )
    return figure


def _range(info: Judgement) -> list[float]:
    """Wide enough for every interval, unless a slice of a handful of samples would squeeze all others."""
    counted = [row for row in info.rows if row.result.verdict != "insufficient"] or list(info.rows)
    noise = [-100 * row.result.noise for row in counted if row.result.noise]
    low = min([-0.5, *noise, *(100 * row.result.drop.low for row in counted)])
    high = max([100 * max(row.limit for row in info.rows) * 1.3, *(100 * row.result.drop.high for row in counted)])
    margin = 0.04 * (high - low)
    return [low - margin, high + margin]


def _label(row: JudgedSlice) -> str:
    name = palette.plain(units.shorten(row.name, NAME_WIDTH))
    shown = f"<b>{name}</b>" if row.result.verdict == "fail" else name
    mark = " ?" if row.result.hypothesis else ""
    return f"{shown}{mark}  <i>n={row.result.n:,}</i>"


def _hover(row: JudgedSlice) -> str:
    r = row.result
    lines = [
        f"<b>{palette.plain(row.name)}</b>",
        f"{units.percent(r.original.value)} → {units.percent(r.candidate.value)}",
        f"drop {units.points(r.drop.value)} points ({units.interval(r.drop, 100.0, 1)})",
        f"limit {units.points(row.limit)} points",
        f"{r.flips_worse} samples worse, {r.flips_better} better, of {r.n:,}",
        WORDS[r.verdict],
    ]
    if r.needed:
        lines.append(f"about {r.needed:,} more samples would decide")
    if r.within_noise:
        lines.append("no larger than what the original loses against itself")
    return "<br>".join(lines)
