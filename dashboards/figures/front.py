"""The front: size against speed, and size against loss, every trial a point."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from autotune.trial import Value
from dashboards.figures import palette
from dashboards.figures.labels import Label, positions
from dashboards.info import units
from dashboards.info.front import FrontInfo, FrontPoint, Role

MB = 1e6
SIZES: dict[Role, int] = {
    "original": 15,
    "recommended": 20,
    "finalist": 15,
    "front": 13,
    "dominated": 8,
    "rejected": 8,
    "failed": 8,
}
# The page's legend names them; "stopped" is a trial that was rejected or failed and has only a size.
SYMBOLS = {
    "original": "diamond",
    "uniform": "square",
    "searched": "circle",
    "rejected": "circle-open",
    "stopped": "line-ns-open",
}
HEIGHT = 440

Pick = Callable[[FrontPoint], Value | None]
Place = Callable[[float], float]  # a metric's value -> where it lies on the axis
Named = Mapping[tuple[int, bool], tuple[str, str]]  # (trial, at its ring?) -> its name, and on which side it stands
_NO_NAME = ("", "bottom center")


def speed_figure(info: FrontInfo) -> go.Figure:
    """Size against latency ratio; colour is the worst drop. Down and left is better."""
    figure = go.Figure(layout=_layout(info, {"title": {"text": "time per inference, original = 1"}}))
    figure.add_hline(y=1.0, line={"color": palette.FAINT, "width": 1, "dash": "dot"})
    _add_points(figure, info, lambda point: point.ratio, float)
    return figure


def drop_figure(info: FrontInfo) -> go.Figure:
    """Size against worst drop in percentage points. Down and left is better.

    The axis is linear up to the limit and a square root beyond it, so that the limit lies at half height whatever the
    worst trial lost.
    """
    top = _top(info)
    positions, labels = palette.drop_ticks(info.limit, top)

    def place(drop: float) -> float:
        # Gains go below zero by the same linear scale, but not out of the picture.
        if drop > 0 or info.limit <= 0:
            return palette.drop_position(drop, info.limit, top)
        return max(0.5 * drop / info.limit, -0.12)

    axis = {
        "title": {"text": "loss in the worst slice, points"},
        "tickvals": positions,
        "ticktext": labels,
        "range": [-0.15, 1.06],
    }
    figure = go.Figure(layout=_layout(info, axis))
    figure.add_hrect(y0=-0.15, y1=0.5, fillcolor=palette.CELL_SCALE[0], line_width=0, layer="below")
    _add_points(figure, info, lambda point: point.drop, place)
    return figure


def _layout(info: FrontInfo, y_axis: dict[str, Any]) -> go.Layout:
    sizes = [point.size / MB for point in info.points] or [1.0]
    low, high = min(sizes) / 1.12, max(sizes) * 1.22
    ticks = _size_ticks(low, high)
    return palette.base_layout(
        height=HEIGHT,
        showlegend=False,
        xaxis={
            "title": {"text": "size of the model file, MB"},
            "type": "log",
            "range": [math.log10(low), math.log10(high)],
            "tickvals": ticks,
            "ticktext": [f"{tick:g}" for tick in ticks],
        },
        yaxis=y_axis,
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )


def _size_ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high`, about evenly on a logarithmic axis."""
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    steps = (1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _top(info: FrontInfo) -> float:
    """The largest drop: where the colour scale ends."""
    drops = [point.drop.value for point in info.points if point.drop is not None]
    return max([*drops, info.limit * 2])


def _add_points(figure: go.Figure, info: FrontInfo, pick: Pick, place: Place) -> None:
    placed = [point for point in info.points if pick(point) is not None]
    rejected = [point for point in placed if point.role in ("rejected", "failed") and not point.uniform]
    plain = [point for point in placed if point.role == "dominated" and not point.uniform]
    uniform = [point for point in placed if point.uniform]
    marked = [p for p in placed if p.role in ("recommended", "finalist", "front") and not p.uniform]
    original = [point for point in placed if point.role == "original"]
    named = _named(figure, info, pick, place)
    figure.add_traces([_stopped([point for point in info.points if pick(point) is None])])
    figure.add_traces([_points(rejected, info, pick, place, "rejected", named, opacity=0.6)])
    figure.add_traces([_points(plain, info, pick, place, "searched", named, opacity=0.7)])
    figure.add_traces([_points(uniform, info, pick, place, "uniform", named)])
    figure.add_traces([_points(marked, info, pick, place, "searched", named)])
    figure.add_traces([_points(original, info, pick, place, "original", named)])
    figure.add_traces(_second_look(info, pick, place, named))


def _named(figure: go.Figure, info: FrontInfo, pick: Pick, place: Place) -> Named:
    """The names of points and where each stands: the recommended chooses first, then the original, then the other
    finalists, then uniform recipes."""
    low, high = figure.layout.xaxis.range
    searched = [(point, value) for point in info.points if (value := pick(point)) is not None]
    final = [(point, value) for point in info.final if (value := pick(point)) is not None]
    heights = [place(end) for _, value in (*searched, *final) for end in (value.low, value.high)] or [0.0, 1.0]
    bottom, top = figure.layout.yaxis.range or (min(heights), max(heights))
    room = (top - bottom) * (0.0 if figure.layout.yaxis.range else 0.06) or 1e-9  # the library leaves some by itself

    def at(point: FrontPoint, value: Value) -> tuple[float, float]:
        x = (math.log10(point.size / MB) - low) / (high - low)
        return x, (place(value.value) - bottom + room) / (top - bottom + 2 * room)

    shown = {point.trial for point, _ in final}
    rings = [(point, True, Label(*at(point, value), f"#{point.trial}", SIZES[point.role] + 7, needed=True))
             for point, value in final]  # fmt: skip
    others = [(point, False, Label(*at(point, value), text, SIZES[point.role], needed=not point.uniform))
              for point, value in searched if (text := _label(point, shown))]  # fmt: skip
    wanted = sorted([*rings, *others], key=lambda each: (each[0].role != "recommended", not each[2].needed, each[1]))
    marks = [(*at(point, value), float(SIZES[point.role])) for point, value in (*searched, *final)]
    found = positions([label for _, _, label in wanted], marks)
    return {
        (point.trial, ring): (f"<b>{label.text}</b>" if point.role == "recommended" else label.text, position)
        for (point, ring, label), position in zip(wanted, found, strict=True)
        if position is not None
    }


def _stopped(points: Sequence[FrontPoint]) -> go.Scatter:
    """Trials without a value: ticks at the top edge, at their size."""
    return go.Scatter(
        x=[point.size / MB for point in points],
        y=[0.985] * len(points),
        yaxis="y2",
        mode="markers",
        name="stopped early or failed",
        hovertext=[_hover(point) for point in points],
        hoverinfo="text",
        marker={
            "symbol": SYMBOLS["stopped"],
            "size": 10,
            "color": palette.FAINT,
            "line": {"width": 2, "color": palette.FAINT},
        },
    )


def _points(
    points: Sequence[FrontPoint],
    info: FrontInfo,
    pick: Pick,
    place: Place,
    kind: str,
    named: Named,
    *,
    opacity: float = 1.0,
) -> go.Scatter:
    top = _top(info)
    drops = [point.drop.value if point.drop else 0.0 for point in points]
    values = [value for value in map(pick, points) if value is not None]
    return go.Scatter(
        x=[point.size / MB for point in points],
        y=[place(value.value) for value in values],
        mode="markers+text",
        name=kind,
        hovertext=[_hover(point) for point in points],
        hoverinfo="text",
        text=[named.get((point.trial, False), _NO_NAME)[0] for point in points],
        textposition=[named.get((point.trial, False), _NO_NAME)[1] for point in points],
        textfont={"size": 12, "color": palette.MUTED},
        cliponaxis=False,
        error_y=_bars(values, place, palette.GRID if kind == "rejected" else palette.FAINT),
        marker={
            "symbol": SYMBOLS[kind],
            "size": [SIZES[point.role] if kind != "uniform" else 11 for point in points],
            "color": [palette.drop_position(drop, info.limit, top) for drop in drops],
            "cmin": 0,
            "cmax": 1,
            "colorscale": palette.drop_scale(palette.MARK_SCALE),
            "opacity": opacity,
            "line": {"width": 1.5} if kind == "rejected" else {"width": 1, "color": palette.SURFACE},
        },
    )


def _second_look(info: FrontInfo, pick: Pick, place: Place, named: Named) -> list[go.Scatter]:
    """Confirmed values as rings, each with a line from what the search had seen."""
    searched = {point.trial: point for point in info.points}
    traces = []
    confirmed = []
    for point in info.final:
        before, after = pick(searched[point.trial]), pick(point)
        if after is None:
            continue
        confirmed.append((point, after))
        if before is not None:
            traces.append(
                go.Scatter(
                    x=[point.size / MB] * 2,
                    y=[place(before.value), place(after.value)],
                    mode="lines",
                    hoverinfo="skip",
                    line={"color": palette.EDGE, "width": 1.5},
                )
            )
    traces.append(
        go.Scatter(
            x=[point.size / MB for point, _ in confirmed],
            y=[place(value.value) for _, value in confirmed],
            mode="markers+text",
            name="finalist, measured again",
            text=[named[point.trial, True][0] for point, _ in confirmed],
            textposition=[named[point.trial, True][1] for point, _ in confirmed],
            textfont={"size": 12, "color": palette.INK},
            cliponaxis=False,
            hovertext=[_hover(point, final=True) for point, _ in confirmed],
            hoverinfo="text",
            error_y=_bars([value for _, value in confirmed], place, palette.EDGE),
            marker={
                "symbol": "circle-open",
                "size": [SIZES[point.role] + 7 for point, _ in confirmed],
                "color": palette.EDGE,
                "line": {"width": [3 if p.role == "recommended" else 1.6 for p, _ in confirmed]},
            },
        )
    )
    return traces


def _bars(values: Sequence[Value], place: Place, colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "thickness": 1.2,
        "width": 2,
        "color": colour,
        "array": [place(value.high) - place(value.value) for value in values],
        "arrayminus": [place(value.value) - place(value.low) for value in values],
    }


def _label(point: FrontPoint, final: Collection[int]) -> str:
    """Only what a reader looks for gets a name in the plot; finalists (`final`) get theirs at the ring."""
    if point.role == "original":
        return "original"
    if point.role == "recommended" and point.trial not in final:
        return f"#{point.trial}"
    return palette.plain(point.uniform, 24) if point.uniform else ""


def _hover(point: FrontPoint, *, final: bool = False) -> str:
    kind = f", all {palette.plain(point.uniform)}" if point.uniform else ""
    lines = [f"<b>trial {point.trial}</b> ({palette.plain(point.proposer) or 'unknown'}{kind})"]
    if final:
        lines.append("measured again, judged on unseen data")
    if point.role in ("rejected", "failed"):
        lines.append(point.role)
    lines.append(f"size {units.size(point.size)}")
    if point.ratio is not None:
        lines.append(f"time {units.factor(point.ratio.value)} ({units.interval(point.ratio)})")
    if point.drop is not None:
        bounds = units.interval(point.drop, 100.0, 1)
        lines.append(f"worst drop {units.points(point.drop.value)} points ({bounds})")
    if point.reason:
        lines.append(palette.plain(point.reason, 90))
    return "<br>".join(lines)
