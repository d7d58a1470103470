"""The page of a comparison: who wins in words, charts, every number, and how it was measured."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from dashboards.figures import palette
from dashboards.figures.compare import SYMBOLS, bars_figure, dots_figure
from dashboards.info import units
from dashboards.info.compare import Chart, Fact, charts, facts, headline, verdict
from dashboards.page.document import contents, document
from dashboards.page.html import Html, join, table, tag
from dashboards.page.writing import write_whole
from hwprofiles.comparison import Comparison, Pairing, Place, Ranking
from hwprofiles.comparison.words import FLAGS, about, cautions, is_short, missing, number, sentence

Figures = dict[str, go.Figure]

_SHAPES = {
    "circle": Html('<circle cx="8" cy="8" r="6"/>'),
    "square": Html('<rect x="2.5" y="2.5" width="11" height="11"/>'),
    "diamond": Html('<path d="M8 1.5 14.5 8 8 14.5 1.5 8Z"/>'),
    "triangle-up": Html('<path d="M8 2 14.5 14 1.5 14Z"/>'),
    "cross": Html('<path d="M5.5 1.5h5v4h4v5h-4v4h-5v-4h-4v-5h4Z"/>'),
    "star": Html('<path d="m8 1 2 5h5l-4 3.2 1.6 5.3L8 11.4l-4.600 3.1L5 9.200 1 6h5Z"/>'),
    "hexagon": Html('<path d="M8 1.500 14 5v6l-6 3.500L2 11V5Z"/>'),
}
_LEADS = {
    "latency": "Median with its 95 % interval, all targets on one axis; further left is better. Filled: fastest there, "
    "or not told apart from it.",
    "cost": "Price of an hour times the median time, one inference after the other, of targets with a price; further "
    "left is better. Filled: cheapest of these, or not told apart from it.",
    "energy": "Above rest, from the machine's own counters; further left is better.",
    "memory": "Beyond Python and the runtime themselves, in a fresh process; shorter is better.",
}
_METRICS = {"latency": "Speed", "cost": "Cost", "energy": "Energy", "memory": "Memory", "size": "Size of the files"}
_VERDICTS = {"less": "faster", "more": "slower", "tie": "tie", "undecided": "not told apart yet"}


def write_comparison(comparison: Comparison, path: Path, *, title: str | None = None) -> Path:
    """Write the page of `comparison` to `path` and return it. The file appears whole or not at all.

    Raises `DiskError` where the file cannot be written.
    """
    return write_whole(render_comparison(comparison, title=title), Path(path), what="page")


def render_comparison(comparison: Comparison, *, title: str | None = None) -> str:
    """The page as text: one file that loads nothing."""
    figures: Figures = {}
    sections = [_result(comparison)]
    anchors = {"result": "Result"}
    for chart in charts(comparison):
        section, more = _chart(chart)
        sections.append(section)
        figures.update(more)
        anchors[chart.name] = chart.title
    sections += [_numbers(comparison), _pairs(comparison), _protocol(comparison)]
    anchors |= {"numbers": "All numbers", "pairs": "Pair by pair", "protocol": "Protocol"}
    name = title or _title(comparison)
    return document(name, _header(name, comparison), contents(anchors), join(sections), figures)


def _title(comparison: Comparison) -> str:
    names = [subject.name for subject in comparison.models]
    if len(names) == 1:
        return f"{names[0]} measured"
    return f"{names[0]} against {names[1] if len(names) == 2 else f'{len(names) - 1} others'}"


def _header(title: str, comparison: Comparison) -> Html:
    count, places = len(comparison.models), len(comparison.targets)
    kicker = (
        f"{count} model{'s' if count > 1 else ''} on {places} target{'s' if places > 1 else ''} · "
        f"{comparison.started_at[:16].replace('T', ' ')} UTC · took {units.duration(comparison.seconds)}"
    )
    return tag("header", tag("div", tag("p", kicker, class_="kicker"), tag("h1", title)))


def _result(comparison: Comparison) -> Html:
    first = headline(comparison)
    rest = [ranking for ranking in comparison.rankings if ranking is not first]
    parts: list[Html | None] = []
    if first is None:
        parts.append(tag("p", "There is only one number of each kind, so nothing to rank.", class_="headline"))
    else:
        claim, tone = verdict(comparison, first)
        parts += [tag("div", claim, class_=f"verdict {tone}"), _headline(first, comparison)]
    for metric, name in _METRICS.items():
        lines = [sentence(ranking, comparison) for ranking in rest if ranking.metric == metric]
        if lines:
            parts += [tag("h3", name), tag("ul", *(tag("li", line) for line in lines), class_="plain")]
    gone = missing(comparison)
    if gone:
        parts += [tag("h3", "Not measured"), tag("ul", *(tag("li", line) for line in gone), class_="plain")]
    warned = cautions(comparison)
    if warned:
        parts += [tag("h3", "Before you believe it"), *(tag("p", line, class_="notice") for line in warned)]
    return tag("section", tag("h2", "Result"), *parts, id="result")


def _headline(ranking: Ranking, comparison: Comparison) -> Html:
    """The claim large, how far behind the others are below it."""
    claim, _, behind = sentence(ranking, comparison).partition("; ")
    return join(
        (tag("p", claim.removesuffix("."), class_="headline"), tag("p", behind, class_="muted") if behind else None)
    )


def _chart(chart: Chart) -> tuple[Html, Figures]:
    element = f"chart-{chart.name}"
    figure = bars_figure(chart) if chart.name == "memory" else dots_figure(chart)
    plot = tag("div", id=element, class_="plot", style="min-width:560px")
    section = tag(
        "section",
        tag("h2", chart.title),
        tag("p", _LEADS[chart.name], class_="lead"),
        _shape_legend(chart) if len(chart.shapes) > 1 else None,
        tag("figure", tag("div", plot, class_="wide")),
        id=chart.name,
    )
    return section, {element: figure}


def _shape_legend(chart: Chart) -> Html:
    keys = []
    for index, shape in enumerate(chart.shapes):
        colour = palette.SERIES[index % len(palette.SERIES)]
        icon = tag(
            "svg",
            _SHAPES[SYMBOLS[index % len(SYMBOLS)]],
            viewBox="0 0 16 16",
            width=13,
            height=13,
            style=f"fill:light-dark({colour},{palette.DARK[colour]})",
            aria_hidden="true",
        )
        keys.append(tag("span", icon, " ", f"shape {shape}", class_="key"))
    return tag("div", *keys, class_="legend")


def _numbers(comparison: Comparison) -> Html:
    """In two tables, so that no column lies beyond the edge of a usual screen."""
    several = len(comparison.shapes) > 1
    sizes = {subject.name: units.size(subject.size_bytes) for subject in comparison.models}
    found = facts(comparison)
    priced = any(fact.cost for fact in found)
    energy = any(fact.energy for fact in found)

    def start(fact: Fact) -> list[object]:
        return [fact.model, fact.target, *([fact.shape] if several else [])]

    head: list[object] = ["model", "target", *(["shape"] if several else [])]
    times = ["time", "interval", "time ratio", "p90", "p99", "quality"]
    rest = ["throughput", "CPU time", "load", "first", "cold start", "peak memory", "file"]
    rest += [*(["energy"] if energy else []), *([f"{comparison.currency or 'cost'} per million"] if priced else [])]
    timed, others = [], []
    for fact in found:
        numbers = [_wrapped(fact.time), _wrapped(fact.interval), _wrapped(fact.ratio), fact.p90, fact.p99]
        timed.append([*start(fact), *numbers, _quality(fact.quality)])
        row = [fact.throughput, fact.cpu, fact.load, fact.first, fact.cold, fact.memory, sizes[fact.model]]
        row += [*([_wrapped(fact.energy)] if energy else []), *([_wrapped(fact.cost)] if priced else [])]
        others.append([*start(fact), *row])
    left = len(head)
    empty = "Nothing was measured on hardware."
    return tag(
        "section",
        tag("h2", "All numbers"),
        tag(
            "p",
            "Time ratios are against the first model that runs on the target, from pairs that were timed in turns. "
            "p90 and p99 are upper estimates and need 64 and 662 inferences. Throughput is the mean rate; cost is by "
            "the median.",
            class_="lead",
        ),
        table([*head, *times], timed, numeric=range(left, left + len(times) - 1), empty=empty),
        table([*head, *rest], others, numeric=range(left, left + len(rest))) if others else None,
        id="numbers",
    )


def _wrapped(text: str) -> Html:
    """A number and, below it, its interval: cells of numbers do not wrap by themselves."""
    value, bracket, interval = text.partition(" (")
    value, _, pairs = value.partition(", ")
    interval, _, more = interval.partition("), ")
    lines = [value, f"({interval.removesuffix(')')})" if bracket else "", more or pairs]
    return join(tag("div", line, class_="muted" if number else None) for number, line in enumerate(lines) if line)


def _pairs(comparison: Comparison) -> Html:
    several = len(comparison.shapes) > 1
    rows = [
        (
            ranking.target or "",
            *([ranking.shape] if several else []),
            pair.a.model,
            pair.b.model,
            *_pair(pair, comparison),
        )
        for ranking in comparison.rankings
        if ranking.metric == "latency" and ranking.target is not None
        for pair in ranking.pairings
    ]
    across = [
        (*([ranking.shape] if several else []), str(pair.a), str(pair.b), *_pair(pair, comparison))
        for ranking in comparison.rankings
        if ranking.metric == "latency" and ranking.target is None
        for pair in ranking.pairings
        if pair.a.model == pair.b.model
    ]
    shape = ["shape"] if several else []
    head = ("target", *shape, "faster", "slower", "time ratio", "interval", "verdict", "more pairs needed")
    numeric = (len(shape) + 3, len(shape) + 4, len(shape) + 6)
    parts: list[Html | None] = [
        tag("h2", "Pair by pair"),
        tag(
            "p",
            "A tie is a claim, too: the whole interval lies within 1 %. Intervals are widened for the number of "
            "models, so that what is said of the fastest holds against all others together.",
            class_="lead",
        ),
        table(head, rows, numeric=numeric, empty="Only one model was measured on each target."),
    ]
    if across:
        across_head = (*shape, "faster", "slower", "time ratio", "interval", "verdict", "more pairs needed")
        parts += [
            tag("h3", "The same model on two targets"),
            tag(
                "p",
                "Not paired, because two machines cannot be timed in turns: only a difference above 3 % counts, and a "
                "tie lies wholly within that.",
                class_="muted",
            ),
            table(across_head, across, numeric=[n - 1 for n in numeric]),
        ]
    return tag("section", *parts, id="pairs")


def _pair(pair: Pairing, comparison: Comparison) -> tuple[object, ...]:
    ratio = pair.ratio
    short = any(is_short(side, comparison) for side in (pair.a, pair.b))
    word = "not enough data" if short else _VERDICTS[pair.verdict]
    return (
        f"{number(ratio.value)}×",
        f"{number(ratio.low)} to {number(ratio.high)}",
        tag("span", word, class_="tag warn" if pair.verdict == "undecided" else "tag"),
        about(pair.more_pairs).removesuffix(" more pairs") if pair.more_pairs is not None else "",
    )


def _protocol(comparison: Comparison) -> Html:
    told = comparison.scenario
    shapes = [
        (label, ", ".join(f"{name} {'×'.join(map(str, dims))}" for name, dims in inputs.items()))
        for label, inputs in told.shapes.items()
    ]
    lead = (
        f"Blocks of at least {told.block_seconds:g} s were timed in randomised turns with the first model, "
        f"{told.min_pairs} to {told.max_pairs} pairs, until the interval of the ratio was within "
        f"±{units.percent(told.precision)} or {told.max_seconds:g} s were over; both models were opened afresh "
        f"after at most {told.generation_pairs} pairs."
    )
    models = [(s.name, units.size(s.size_bytes), tag("code", s.sha256[:16], title=s.sha256)) for s in comparison.models]
    flags = sorted({flag for row in comparison.rows if row.measurement for flag in row.measurement.quality} - {"ok"})
    return tag(
        "section",
        tag("h2", "How it was measured"),
        tag("p", lead, class_="lead"),
        tag("h3", "Targets"),
        table(
            ("target", "processor", "runtime", "threads", "clocks", "system", "price per hour"),
            [_place(place, comparison) for place in comparison.targets],
            numeric=(3, 6),
        ),
        tag("h3", "Models"),
        table(("model", "file", "sha256"), models, numeric=(1,)),
        join((tag("h3", "Shapes"), table(("shape", "inputs"), shapes))) if shapes else None,
        join((tag("h3", "Flags"), table(("flag", "meaning"), [(f, FLAGS[f]) for f in flags]))) if flags else None,
        id="protocol",
    )


def _place(place: Place, comparison: Comparison) -> tuple[object, ...]:
    trusted = place.provenance == "hardware"
    label = tag("span", place.label, class_="tag") if place.label else None
    name = join((place.name, " ", tag("span", place.provenance, class_="tag" if trusted else "tag warn"), label))
    price = f"{number(place.price)} {comparison.currency}".strip() if place.price is not None else ""
    found = place.fingerprint
    if found is None:
        return (name, "was not there", "", "", "", "", price)
    records = [row.measurement for row in comparison.rows if row.target == place.name and row.measurement is not None]
    clocks = next((record.conditions.clocks for record in records if record.conditions is not None), "")
    return (
        name,
        join((found.cpu_model, tag("div", f"{found.cores} cores, {units.size(found.memory_total)}", class_="muted"))),
        join((f"{found.runtime} {found.runtime_version}", tag("div", found.provider, class_="muted"))),
        found.threads,
        clocks,
        join((f"{found.system}, {found.machine}", tag("div", f"Python {found.python}", class_="muted"))),
        price,
    )


def _quality(flags: tuple[str, ...]) -> Html:
    return join(tag("span", flag, class_="tag" if flag == "ok" else "tag warn") for flag in flags)
