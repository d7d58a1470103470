"""How the search went, and where the time went."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboards.figures import palette
from dashboards.info import units
from dashboards.info.progress import Prediction, Progress, Stage, Step, proposers

MB = 1e6
OPEN = {"within": "circle", "beyond": "circle-open", "rejected": "circle-open", "failed": "x-thin-open"}
WORDS = {
    "within": "within every limit",
    "beyond": "a limit is broken",
    "rejected": "rejected before it was judged",
    "failed": "failed",
}


def progress_figure(info: Progress) -> go.Figure:
    """Size of every trial in order; full points keep every limit; the line is the best of those so far."""
    figure = go.Figure(
        layout=palette.base_layout(
            height=400,
            xaxis={"title": {"text": "trial"}},
            yaxis={"title": {"text": "size of the model file, MB"}, "rangemode": "tozero"},
            margin={"l": 8, "r": 8, "t": 48, "b": 8},
        )
    )
    if info.original_size is not None:
        figure.add_hline(
            y=info.original_size / MB,
            line={"color": palette.FAINT, "width": 1, "dash": "dot"},
            annotation={"text": "original", "font": {"size": 12, "color": palette.MUTED}},
            annotation_position="top right",
        )
    best = [step for step in info.steps if step.best is not None]
    if best:
        figure.add_trace(
            go.Scatter(
                x=[step.trial for step in best],
                y=[(step.best or 0.0) / MB for step in best],
                mode="lines",
                name="smallest within the limits so far",
                line={"color": palette.EDGE, "width": 2, "shape": "hv"},
                hoverinfo="skip",
            )
        )
    for index, proposer in enumerate(proposers(info.steps)):
        steps = [step for step in info.steps if step.proposer == proposer and step.size is not None]
        if steps:
            figure.add_trace(_points(steps, proposer, palette.SERIES[index % len(palette.SERIES)]))
    return figure


def stages_figure(stages: tuple[Stage, ...]) -> go.Figure:
    """Seconds per stage over the whole study."""
    return go.Figure(
        go.Bar(
            y=[palette.plain(stage.name) for stage in stages],
            x=[stage.seconds for stage in stages],
            orientation="h",
            marker={"color": palette.SERIES[0]},
            cliponaxis=False,
            textposition="outside",
            text=[f"{units.duration(stage.seconds)}  ({units.percent(stage.share)})" for stage in stages],
            textfont={"size": 12, "color": palette.MUTED},
            hoverinfo="skip",
        ),
        layout=palette.base_layout(
            height=34 * len(stages) + 24,
            xaxis={"visible": False, "range": [0, max((s.seconds for s in stages), default=1.0) * 1.5]},
            yaxis={"autorange": "reversed", "tickfont": {"size": 13, "color": palette.INK}},
            bargap=0.4,
        ),
    )


def health_figure(info: Prediction) -> go.Figure:
    """Rank correlation (lines) and relative error (dotted) of every objective over the trials; 1 and 0 are perfect."""
    figure = go.Figure(
        layout=palette.base_layout(
            height=320,
            xaxis={"title": {"text": "trial"}},
            yaxis={"title": {"text": "rank correlation, relative error"}, "range": [-0.55, 1.05]},
            margin={"l": 8, "r": 8, "t": 48, "b": 8},
        )
    )
    keys = tuple(dict.fromkeys(key for batch in info.batches for key in batch.rank_correlation))
    for index, key in enumerate(keys):
        colour = palette.SERIES[index % len(palette.SERIES)]
        for what, dash in (("rank correlation", "solid"), ("relative error", "dot")):
            figure.add_trace(_predicted(info, key, what, colour, dash))
    bad = [batch.trial for batch in info.batches if not batch.good]
    if bad:
        figure.add_trace(
            go.Scatter(
                x=bad,
                y=[-0.5] * len(bad),
                mode="markers",
                name="predicted badly: the search explores more",
                marker={"symbol": "x", "size": 8, "color": palette.EDGE},
                hoverinfo="skip",
            )
        )
    return figure


def _predicted(info: Prediction, key: str, what: str, colour: str, dash: str) -> go.Scatter:
    table = [batch.rank_correlation if what == "rank correlation" else batch.relative_error for batch in info.batches]
    known = [(batch.trial, row.get(key)) for batch, row in zip(info.batches, table, strict=True)]
    points = [(trial, value) for trial, value in known if value is not None]
    return go.Scatter(
        x=[trial for trial, _ in points],
        y=[min(value, 1.0) for _, value in points],
        mode="lines",
        name=f"{palette.plain(key)}, {what}",
        line={"color": colour, "width": 2, "dash": dash},
        hoverinfo="text",
        hovertext=[f"before trial {trial}: {what} of {palette.plain(key)} {value:.2f}" for trial, value in points],
    )


def _points(steps: list[Step], proposer: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[step.trial for step in steps],
        y=[(step.size or 0.0) / MB for step in steps],
        mode="markers",
        name=palette.plain(proposer),
        hoverinfo="text",
        hovertext=[_hover(step) for step in steps],
        marker={
            "color": colour,
            "size": 10,
            "line": {"width": 1.8, "color": colour},
            "symbol": [OPEN[step.standing] for step in steps],
        },
    )


def _hover(step: Step) -> str:
    size = units.size(step.size) if step.size is not None else "not built"
    return f"<b>trial {step.trial}</b> ({palette.plain(step.proposer)})<br>{size}<br>{WORDS[step.standing]}"
