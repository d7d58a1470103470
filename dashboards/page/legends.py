"""Legends as HTML, one for several plots: they wrap on narrow screens, and a plot keeps its width."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards.figures import palette
from dashboards.figures.slicemap import LOOKS, SIGNS, WORDS
from dashboards.page.html import Html, join, tag

_SHAPES = {
    "original": Html('<path d="M8 1.5 14.5 8 8 14.5 1.5 8Z" fill="currentColor"/>'),
    "front": Html('<circle cx="8" cy="8" r="6" fill="currentColor"/>'),
    "dominated": Html('<circle cx="8" cy="8" r="3.5" fill="currentColor" opacity="0.7"/>'),
    "rejected": Html('<circle cx="8" cy="8" r="3.5" fill="none" stroke="currentColor" stroke-width="1.5"/>'),
    "uniform": Html('<rect x="3" y="3" width="10" height="10" fill="currentColor"/>'),
    "finalist": Html('<circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.8"/>'),
    "stopped": Html('<path d="M8 2v12" stroke="currentColor" stroke-width="2" opacity="0.6"/>'),
}
_SHAPE_WORDS = {
    "front": "on the front",
    "dominated": "beaten by another trial",
    "rejected": "rejected: breaks a limit",
    "uniform": "one format for all layers",
    "original": "original",
    "finalist": "finalist, measured again",
    "stopped": "stopped early or failed: only its size is known",
}


def shapes() -> Html:
    """What the shapes in the plots of the front mean."""
    return _row(_key(_icon(_SHAPES[shape]), words) for shape, words in _SHAPE_WORDS.items())


def drops(limit: float, colours: tuple[str, str, str, str], what: str) -> Html:
    """The colour scale of drops: within the limit, and beyond it."""
    light = _gradient(colours)
    dark = _gradient(tuple(palette.DARK[colour] for colour in colours))
    bar = tag("span", class_="ramp", style=f"--light:{light};--dark:{dark}")
    marks = tag(
        "span",
        tag("span", "0"),
        tag("span", f"limit {limit * 100:g}"),
        tag("span", "more"),
        class_="marks",
    )
    return _row([join((f"{what}, points ", tag("span", bar, marks, class_="scale")))])


def choices(names: tuple[str, ...]) -> Html:
    """The formats in the layer map."""
    colours = palette.choice_colours(names)
    return _row(_key(_swatch(colour), "original" if name == "none" else name) for name, colour in colours.items())


def verdicts() -> Html:
    """The signs in the slice map."""
    looks = _key(tag("b", LOOKS), "before a sign: only looks like it, on the search data that chose the trial")
    return _row([*(_key(tag("b", sign), WORDS[verdict]) for verdict, sign in SIGNS.items()), looks])


def _row(items: Iterable[Html]) -> Html:
    return tag("div", *items, class_="legend")


def _key(mark: Html, words: str) -> Html:
    return tag("span", mark, " ", words, class_="key")


def _icon(shape: Html) -> Html:
    return tag("svg", shape, viewBox="0 0 16 16", width=13, height=13, aria_hidden="true")


def _swatch(colour: str) -> Html:
    return tag("span", class_="swatch", style=f"--light:{colour};--dark:{palette.DARK.get(colour, colour)}")


def _gradient(colours: tuple[str, ...]) -> str:
    low, edge, beyond, top = colours
    return f"linear-gradient(90deg,{low},{edge} 50%,{beyond} 50%,{top})"
