"""The section on several targets, and what a warm start brought."""

from __future__ import annotations

from autotune.search.transfer import Expectation, Transfer
from autotune.trial import Value
from dashboards.figures.targets import targets_figure
from dashboards.info import units
from dashboards.info.targets import TargetRow, TargetsInfo
from dashboards.page.html import Html, join, table, tag
from dashboards.page.sections import Figures


def targets_section(info: TargetsInfo | None) -> tuple[Html | None, Figures]:
    """Picture and table of what the one model costs each target; nothing with a single target."""
    if info is None:
        return None, {}
    lead = (
        f"Trial {info.common} is the one model for all targets. Beside it, for each target, the best model for that "
        "one alone, within the same limits. A tie is a difference that the 95 % intervals do not tell."
    )
    head = (
        "target",
        "own best",
        "its time",
        "time of the common one",
        "change",
        "its size and loss",
        "of the common one",
    )
    rows = [_row(row, info.common) for row in info.rows]
    figure = tag(
        "figure", tag("div", tag("div", id="targets-figure", class_="plot", style="min-width:560px"), class_="wide")
    )
    searched = [row for row in info.rows if row.own is not None and not row.verified]
    note = None
    if searched:
        numbers = ", ".join(dict.fromkeys(f"#{row.own}" for row in searched))
        note = tag("p", f"As searched, not measured again: {numbers}.", class_="muted")
    section = tag(
        "section",
        tag("h2", "One model for all targets"),
        tag("p", lead, class_="lead"),
        figure,
        table(head, rows, numeric=(2, 3, 4)),
        note,
        id="targets",
    )
    return section, {"targets-figure": targets_figure(info)}


def transfer_section(found: Transfer | None) -> Html | None:
    """What earlier studies let one expect, against what was measured; nothing without a warm start."""
    if found is None:
        return None
    rows = [
        (
            tag("code", row.key),
            f"{row.n:,}",
            _rank(row),
            "" if row.median_error is None else units.percent(row.median_error),
        )
        for row in found.expectations
    ]
    return tag(
        "section",
        tag("h2", "What the warm start brought"),
        tag(
            "p",
            "Expected from earlier studies before anything was measured here, against the measurements.",
            class_="lead",
        ),
        tag("ul", *(tag("li", source) for source in found.sources), class_="plain"),
        table(("quantity", "trials", "rank correlation", "median error"), rows, numeric=(1, 2, 3)) if rows else None,
        tag(
            "p",
            f"{found.recipes_on_front} of the {found.front} compressed trials of the front began as recipes of earlier "
            f"studies; {found.recipes} were tried, and {found.facts} models were known in part.",
        ),
        id="warm-start",
    )


def _row(row: TargetRow, common: int) -> tuple[object, ...]:
    own = "none" if row.own is None else "the original" if row.own == 0 else f"#{row.own}"
    change: object = "the same model" if row.own == common else ""
    if row.change is not None:
        share = f"{units.percent(abs(row.change.value))} {'slower' if row.change.value > 0 else 'faster'}"
        change = join((share, " ", tag("span", "tie", class_="tag"))) if row.tie else share
    return (
        row.target,
        own,
        _time(row.time_own),
        _time(row.time_common),
        change,
        _rest(row.size_own, row.drop_own),
        _rest(row.size_common, row.drop_common),
    )


def _time(value: Value | None) -> str:
    return "" if value is None else f"{units.factor(value.value)} ({units.interval(value)})"


def _rest(size: float | None, drop: Value | None) -> str:
    parts = [] if size is None else [units.size(size)]
    if drop is not None:
        parts.append(f"{units.points(drop.value)} points ({units.interval(drop, 100.0, 1)})")
    return ", ".join(parts)


def _rank(row: Expectation) -> str:
    return "too few trials" if row.rank_correlation is None else units.number(row.rank_correlation, 2)
