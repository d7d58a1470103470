"""Colours, for people with any kind of colour vision, on paper, in light and in dark.

A figure is made in the light colours below. The page swaps each of them for its dark partner when the
reader prefers dark, so a colour used in a figure must be one of these, and no two roles may share a value.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from dashboards.info import units

INK = "#1c2024"
MUTED = "#60676f"
GRID = "#e4e6ea"
SURFACE = "#fefefe"
ACCENT = "#2166ac"
FAINT = "#b5bac1"
EMPTY = "#eff1f4"
EDGE = "#41474e"

# Below the limit blue, above it orange to red, with a step between: the limit is the one thing to see.
MARK_SCALE = ("#0b4a8f", "#6aaed8", "#f5a54a", "#a8201a")
CELL_SCALE = ("#f1f6fa", "#b9d6ec", "#fbdcae", "#c8442c")

# Qualitative, after Okabe and Ito, which stays apart under all common colour deficiencies.
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7b6fc4")

# Formats of one family share a hue and get stronger with fewer bits. The cells carry text as well.
CHOICES = {
    "none": "#e9ebee",
    "float16": "#cbd0d8",
    "int8-static": "#4a90c9",
    "int8-dynamic": "#9cc7e6",
    "w8-b128": "#fbe3b3",
    "w8-b32": "#fadb9f",
    "w8-load": "#fcebca",
    "w4-b128": "#eda43c",
    "w4-b32": "#f0b25a",
    "w4-b32-load": "#f6cd93",
    "w2-b128": "#b9580f",
    "w2-b32": "#c46a24",
    "w2-b32-load": "#d8925c",
}
OTHER_CHOICES = ("#8fcfb4", "#c9a3d4", "#7f9f6b", "#d98fa0", "#6fb7b7", "#a89a7c")

DARK = {
    INK: "#e7e9ec",
    MUTED: "#9aa3ad",
    GRID: "#2e343b",
    SURFACE: "#191d22",
    ACCENT: "#6fb1f0",
    FAINT: "#565e67",
    EMPTY: "#242a31",
    EDGE: "#c3c9d0",
    MARK_SCALE[0]: "#3f95ea",
    MARK_SCALE[1]: "#a9d4f5",
    MARK_SCALE[2]: "#ffc078",
    MARK_SCALE[3]: "#f25c4d",
    CELL_SCALE[0]: "#1e2831",
    CELL_SCALE[1]: "#2c577d",
    CELL_SCALE[2]: "#7d5422",
    CELL_SCALE[3]: "#e0563c",
    SERIES[0]: "#4aa8e0",
    SERIES[1]: "#f0b429",
    SERIES[2]: "#2fc298",
    SERIES[3]: "#e39cc3",
    SERIES[4]: "#8fd0f5",
    SERIES[5]: "#f2834a",
    SERIES[6]: "#a79df0",
    CHOICES["none"]: "#2a3037",
    CHOICES["float16"]: "#4b5560",
    CHOICES["int8-static"]: "#2f86c9",
    CHOICES["int8-dynamic"]: "#33597a",
    CHOICES["w8-b128"]: "#66552f",
    CHOICES["w8-b32"]: "#6e5a2c",
    CHOICES["w8-load"]: "#5c4f31",
    CHOICES["w4-b128"]: "#b98231",
    CHOICES["w4-b32"]: "#a97a33",
    CHOICES["w4-b32-load"]: "#8d6a36",
}


def choice_colours(choices: tuple[str, ...]) -> dict[str, str]:
    """A colour for each choice, in the order of the legend: known formats first, then the others by name."""
    order = list(CHOICES)
    known = sorted((c for c in choices if c in CHOICES), key=order.index)
    other = sorted(c for c in choices if c not in CHOICES)
    extra = {choice: OTHER_CHOICES[i % len(OTHER_CHOICES)] for i, choice in enumerate(other)}
    return {**{choice: CHOICES[choice] for choice in known}, **extra}


def drop_position(drop: float, limit: float, top: float) -> float:
    """Where a drop lies on the colour scale: [0, 0.5) within the limit, [0.5, 1] beyond it up to `top`.

    Beyond the limit the scale is a square root, so that 2 and 5 points still differ when the worst is 60.
    """
    if drop <= limit:
        return 0.4999 * max(drop, 0.0) / limit if limit > 0 else 0.0
    if top <= limit:
        return 1.0
    return 0.5 + 0.5 * min(1.0, math.sqrt((drop - limit) / (top - limit)))


def drop_scale(colours: tuple[str, str, str, str]) -> list[list[Any]]:
    """The colour scale that goes with `drop_position`."""
    return [[0.0, colours[0]], [0.5, colours[1]], [0.5, colours[2]], [1.0, colours[3]]]


def drop_ticks(limit: float, top: float) -> tuple[list[float], list[str]]:
    """Positions and labels of a colour bar, in percentage points."""
    steps = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0]
    beyond = [value for value in steps if limit * 1.8 < value <= top]
    kept: list[float] = []
    for value in beyond:
        if not kept or drop_position(value, limit, top) - drop_position(kept[-1], limit, top) > 0.1:
            kept.append(value)
    within = [(0.0, "0"), (limit, f"{limit * 100:g} (limit)")] if limit > 0 else [(0.0, "0 (limit)")]
    values = [*(value for value, _ in within), *kept]
    labels = [*(label for _, label in within), *(f"{value * 100:g}" for value in kept)]
    return [drop_position(value, limit, top) for value in values], labels


def plain(text: object, width: int = 0) -> str:
    """Text for a Plotly label or hover, which reads a few HTML tags: those of others must stay text."""
    whole = units.printable(text)
    shown = whole if not width or len(whole) <= width else whole[: width - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def base_layout(**changes: Any) -> go.Layout:
    """What all figures share: no background of their own, quiet grid, horizontal legend above the plot."""
    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "title": {"font": {"color": MUTED, "size": 13}, "standoff": 10},
        "tickfont": {"color": MUTED, "size": 12},
    }
    layout = go.Layout(
        template={
            "layout": {
                "xaxis": axis,
                "yaxis": axis,
                "colorway": list(SERIES),
                "paper_bgcolor": "rgba(0,0,0,0)",
                "plot_bgcolor": "rgba(0,0,0,0)",
            }
        },
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        hoverlabel={
            "bgcolor": SURFACE,
            "bordercolor": FAINT,
            "font": {"color": INK, "size": 13},
            "align": "left",
        },
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"color": MUTED, "size": 12},
            "itemclick": "toggle",
            "itemsizing": "trace",
        },
        hovermode="closest",
        dragmode=False,
    )
    return layout.update(changes)
