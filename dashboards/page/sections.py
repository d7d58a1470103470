"""The sections after the headline. Each gives its markup and the figures that go into it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import plotly.graph_objects as go

from autotune.keys import parse_key
from dashboards.figures import palette
from dashboards.figures.front import drop_figure, speed_figure
from dashboards.figures.layermap import layer_figure, layer_width
from dashboards.figures.progress import progress_figure, stages_figure
from dashboards.figures.slicemap import slice_figure, slice_width
from dashboards.info import units
from dashboards.info.flips import Flip, FlipInfo
from dashboards.info.front import Curse, FrontInfo, FrontPoint
from dashboards.info.layermap import LayerMap
from dashboards.info.progress import Progress
from dashboards.info.slicemap import SliceMap
from dashboards.page import legends, words
from dashboards.page.html import Html, join, table, tag
from dashboards.page.pictures import data_uri

Figures = dict[str, go.Figure]  # id of the element -> figure
LONGEST_MARKED = 400  # characters; comparing longer answers letter by letter helps nobody


def front_section(fronts: list[FrontInfo], curses: tuple[Curse, ...], roles: Mapping[str, str]) -> tuple[Html, Figures]:
    """Two views of all trials per target, and what measuring again changed."""
    figures: Figures = {}
    parts = []
    for index, info in enumerate(fronts):
        figures[f"speed-{index}"] = speed_figure(info)
        figures[f"loss-{index}"] = drop_figure(info)
        if len(fronts) > 1:
            parts.append(tag("h3", f"Target {info.target}"))
        parts.append(
            tag(
                "div",
                _figure(f"speed-{index}", "Size and speed", width=430),
                _figure(f"loss-{index}", "Size and loss", width=430),
                class_="pair",
            )
        )
        if info.unplaced:
            parts.append(
                tag(
                    "p",
                    f"{info.unplaced} trials failed before a model was built and have no place here.",
                    class_="muted",
                )
            )
        parts.append(_front_table(info, roles))
    return (
        tag(
            "section",
            tag("h2", "Size, speed and loss of every trial"),
            tag(
                "p",
                "Further down and further left is better. Colour is the loss of the worst slice: blue keeps the "
                "limit, orange and red break it. Bars are 95 % intervals.",
                class_="lead",
            ),
            legends.shapes(),
            legends.drops(fronts[0].limit, palette.MARK_SCALE, "loss in the worst slice"),
            *parts,
            _curse_table(curses),
            id="front",
        ),
        figures,
    )


def _front_table(info: FrontInfo, roles: Mapping[str, str]) -> Html:
    shown = [p for p in info.points if p.role in roles]
    shown.sort(key=lambda point: point.size)
    rows = [
        (
            f"#{p.trial}",
            join((tag("span", roles[p.role], class_="tag"), f" {p.uniform}")),
            units.size(p.size),
            _time_cell(p),
            f"{units.points(p.drop.value)} ({units.interval(p.drop, 100.0, 1)})" if p.drop else "",
        )
        for p in shown
    ]
    head = ("trial", "what", "size", "time, original = 1", "worst drop, points")
    return tag("details", tag("summary", "The front as a table"), table(head, rows, numeric=(2, 3, 4)))


def _time_cell(point: FrontPoint) -> Html:
    ratio = point.ratio
    if ratio is None:
        return join(())
    marks = ["tie"] if point.role != "original" and words.is_tie(ratio) else []
    marks += ["stale"] if point.stale else []
    shown = f"{units.factor(ratio.value)} ({units.interval(ratio)}) "
    return join((shown, *(tag("span", mark, class_="tag warn" if mark == "stale" else "tag") for mark in marks)))


def _curse_table(curses: tuple[Curse, ...]) -> Html | None:
    """The winner's curse: the best of many noisy values is too good; so finalists are looked at twice."""
    if not curses:
        return None
    rows: list[tuple[object, ...]] = []
    columns = {key: _curse_name(key, curses) for key in dict.fromkeys(curse.key for curse in curses)}
    for number in dict.fromkeys(curse.trial for curse in curses):
        row: list[object] = [f"#{number}"]
        for key in columns:
            found = next((c for c in curses if c.trial == number and c.key == key), None)
            row += ["", "", ""] if found is None else _curse_cells(found)
        rows.append(tuple(row))
    head = (
        "trial",
        *(f"{name}{what}" for name in columns.values() for what in (" in search", ", second look", ", change")),
    )
    words_ = (
        "The winner of many noisy comparisons looks better than it is. Finalists were therefore measured again "
        "with more samples and judged on data that the search never saw. Marked: outside of what the search's own "
        "interval allowed, and worse."
    )
    heading = tag("h3", "What the search saw, and the second look")
    return join((heading, tag("p", words_, class_="muted"), table(head, rows, numeric=range(1, len(head)))))


def _curse_name(text: str, curses: tuple[Curse, ...]) -> str:
    """A key as the table calls it; the target where there are several."""
    key = parse_key(text)
    if key.name == "drop":
        return "worst loss"
    several = len({curse.key for curse in curses if parse_key(curse.key).name == key.name}) > 1
    return f"time on {key.target}" if several else "time"


def _curse_cells(curse: Curse) -> list[object]:
    if parse_key(curse.key).name == "drop":
        shown = f"{units.points(curse.change, sign=True)} points"
    else:
        shown = f"{curse.change:+.3f}".replace("-", units.MINUS)
    surprise = curse.final.value > curse.search.high
    change = tag("span", shown, class_="tag warn") if surprise else shown
    return [words.amount(curse.key, curse.search.value), words.amount(curse.key, curse.final.value), change]


def layer_section(info: LayerMap, recommended: int | None, *, verified: bool) -> tuple[Html, Figures]:
    """The map and what did not run as asked."""
    subject = "finalist" if verified else "point of the front"
    lead = (
        f"Every layer in order of execution, and the format each {subject} gives it. Bars: the layer's share of "
        "parameters and of time in the original. ★ is the trial of the headline."
    )
    body: list[Html | None]
    figures: Figures = {}
    if info.rows and info.trials:
        figures["layers"] = layer_figure(info, recommended)
        body = [legends.choices(info.choices), _figure("layers", width=layer_width(info))]
    else:
        body = [tag("p", "No compressed model to show yet.", class_="muted")]
    body.append(tag("h3", "Asked for and not what ran"))
    body.append(
        table(
            ("layer", "asked", "ran", "note", "trials"),
            _mismatches(info),
            empty="Nothing: in every trial the kernels that ran were those of the recipe.",
        )
    )
    if info.skipped:
        rows = [(tag("code", name), reason) for name, reason in info.skipped]
        body.append(
            tag(
                "details",
                tag("summary", f"Parts of the model that are not searchable, and why ({len(rows)})"),
                table(("part", "why"), rows),
            )
        )
    return tag(
        "section",
        tag("h2", "What happens to each layer"),
        tag("p", lead, class_="lead"),
        *body,
        id="layers-map",
    ), figures


def _mismatches(info: LayerMap) -> list[tuple[object, ...]]:
    """One row for all trials in which the same befell a layer: most often it is the same layer in nearly all trials."""
    asked: dict[tuple[str, str, str], dict[str, None]] = {}
    trials: dict[tuple[str, str, str], list[str]] = {}
    for number, outcome in info.mismatches:
        key = (outcome.layer, outcome.ran, outcome.note)
        asked.setdefault(key, {})[outcome.asked] = None
        trials.setdefault(key, []).append(f"#{number}")
    return [
        (tag("code", layer), ", ".join(asked[layer, ran, note]), ran, note, ", ".join(dict.fromkeys(numbers)))
        for (layer, ran, note), numbers in trials.items()
    ]


def slice_section(info: SliceMap, recommended: int | None) -> tuple[Html, Figures]:
    """The heat map and its legend of verdicts."""
    if not info.columns:
        empty = tag("p", "No compressed model was judged yet.", class_="muted")
        return tag("section", tag("h2", "Loss by slice"), empty, id="slices"), {}
    lead = (
        f"Loss of {info.metric} against the original on the same samples, in percentage points; a negative "
        "number is a gain. Finalists on held-out data, formats used for all layers beside them for comparison; n is "
        "that of the first column."
    )
    return (
        tag(
            "section",
            tag("h2", "Loss by slice"),
            tag("p", lead, class_="lead"),
            legends.drops(info.limit, palette.CELL_SCALE, "loss"),
            _figure("slice-map", width=slice_width(info)),
            legends.verdicts(),
            id="slices",
        ),
        {"slice-map": slice_figure(info, recommended)},
    )


def flip_section(info: FlipInfo | None) -> Html:
    """Cards with the input, the two answers and the label."""
    title = tag("h2", "What changes for single samples")
    if info is None:
        return tag(
            "section",
            title,
            tag("p", "No per-sample answers were kept for this trial.", class_="muted"),
            id="flips",
        )
    lead = (
        f"Trial {info.trial} on {info.n:,} samples ({info.dataset}): {info.total_worse:,} got worse, "
        f"{info.total_better:,} got better. The largest changes first."
    )
    parts: list[Html | None] = [title, tag("p", lead, class_="lead")]
    for name, flips in (("Got worse", info.worse), ("Got better", info.better)):
        if flips:
            parts += [tag("h3", name), tag("div", *(_flip(flip) for flip in flips), class_="flips")]
    return tag("section", *parts, id="flips")


def _flip(flip: Flip) -> Html:
    rows: list[Html | None] = []
    if flip.label is not None:
        rows += [tag("dt", "label"), tag("dd", flip.label)]
    before, after = _changes(flip.original, flip.candidate)
    rows += [tag("dt", "original"), tag("dd", before), tag("dt", "now"), tag("dd", after)]
    rows += [tag("dt", "score"), tag("dd", f"{flip.change:+.2f}".replace("-", units.MINUS))]
    return tag("div", _shown(flip), tag("dl", *rows), class_="flip")


def _shown(flip: Flip) -> Html:
    if isinstance(flip.display, bytes):
        source = data_uri(flip.display)
        if source is not None:
            return tag(
                "div",
                tag("img", src=source, alt=f"input of sample {flip.id}", loading="lazy"),
                class_="shown",
            )
    shown = flip.display if isinstance(flip.display, str) else f"sample {flip.id}"
    return tag("div", tag("p", shown), class_="shown text")


def _changes(before: str, after: str) -> tuple[Html, Html]:
    """Both answers, what is gone marked in the first and what is new in the second; whole where little is left."""
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    if not before or not after or max(len(before), len(after)) > LONGEST_MARKED or matcher.ratio() < 0.4:
        return tag("del", before or "(nothing)"), tag("ins", after or "(nothing)")
    gone: list[object] = []
    new: list[object] = []
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        same = kind == "equal"
        gone.append(before[a0:a1] if same else tag("del", before[a0:a1]) if a1 > a0 else None)
        new.append(after[b0:b1] if same else tag("ins", after[b0:b1]) if b1 > b0 else None)
    return join(gone), join(new)


def progress_section(info: Progress) -> tuple[Html, Figures]:
    """The search over its trials, and the time per stage."""
    counts = ", ".join(f"{count} {state}" for state, count in info.states)
    figures: Figures = {"progress": progress_figure(info)}
    parts = [_figure("progress", "Size of each trial; filled points keep every limit")]
    if info.stages:
        figures["stages"] = stages_figure(info.stages)
        parts.append(_figure("stages", "Where the time went"))
    lead = f"{counts}. {units.duration(info.seconds)} of work in all." if info.stages else f"{counts}."
    return (
        tag(
            "section",
            tag("h2", "How the search went"),
            tag("p", lead, class_="lead"),
            tag("div", *parts, class_="pair"),
            id="progress-of-search",
        ),
        figures,
    )


def _figure(element: str, caption: str = "", *, width: int = 0) -> Html:
    """`width` is the least number of pixels that the plot needs; where there are fewer, it scrolls sideways."""
    title = tag("figcaption", caption) if caption else None
    plot = tag("div", id=element, class_="plot", style=f"min-width:{width}px" if width else None)
    return tag("figure", title, tag("div", plot, class_="wide"))
