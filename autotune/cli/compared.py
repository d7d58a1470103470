"""A comparison for the screen: a table per target, then who wins in words. For 80 columns and more, without colour."""

from __future__ import annotations

import textwrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.keys import format_amount, parse_key
from hwprofiles.comparison import Comparison, Place, Row
from hwprofiles.comparison.words import cautions, number, sentence
from hwprofiles.measurement import Estimate, ShapeResult

_SECONDS, _BYTES, _JOULES = (parse_key(key) for key in ("latency_p50@t", "memory_peak@t", "energy_j@t"))
_WIDE = 116  # columns from which the half width of an interval stands beside its number, not below it
_MARKS = {"best": "*", "tie": "=", "undecided": "?"}
_LEGEND = "* fastest   = ties with it   ? not told apart from it yet   ! flagged, see below"


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Models, tables, sentences."""
    for subject in comparison.models:
        _print(console, f"{subject.name}: {format_amount(subject.size_bytes, _BYTES)}")
    for place in comparison.targets:
        console.print()
        _print(console, _title(place))
        rows = [row for row in comparison.rows if row.target == place.name]
        measured = [row for row in rows if row.problem is None]
        if place.provenance == "hardware" and measured:
            console.print(_table(console, comparison, place, measured))
        elif measured:
            names = ", ".join(row.model for row in measured)
            _print(console, f"  ran, but on something {place.provenance}, whose times say nothing: {names}")
        problems: dict[str, list[str]] = {}
        for row in rows:
            if row.problem is not None:
                problems.setdefault(row.problem, []).append(row.model)
        for problem, models in problems.items():
            _print(console, f"  not measured: {', '.join(models)}: {problem}")
    if any(row.ranked for row in comparison.rows):
        priced = "; cost of a million inferences by the time" if any(row.cost for row in comparison.rows) else ""
        _print(console, f"{_LEGEND}\n± is half the width of the 95 % interval{priced}.\n")
    # What is missing stands under its target already.
    for line in [*(sentence(ranking, comparison) for ranking in comparison.rankings), *cautions(comparison)]:
        _print(console, f"- {line}")


def _print(console: Console, text: str) -> None:
    """Wrapped with the rest of a paragraph indented; a name from a file cannot bring markup."""
    for line in text.splitlines() or [""]:
        indent = " " * (2 if line.startswith("- ") else 4)
        kept = line.replace(" %", "\u00a0%")  # a number and its unit stay together
        for piece in textwrap.wrap(kept, console.width, subsequent_indent=indent, break_on_hyphens=False) or [""]:
            console.print(Text(piece.replace("\u00a0", " ")), soft_wrap=True)


def _title(place: Place) -> str:
    found = place.fingerprint
    parts = [place.name]
    if found is not None:
        parts.append(
            f"{found.cpu_model}, {found.threads} of {found.cores} cores, {found.runtime} {found.runtime_version}, "
            f"{found.provider}"
        )
    told = place.provenance if not place.label else f"{place.provenance}, {place.label}"
    return f"{': '.join(parts)} ({told})"


def _table(console: Console, comparison: Comparison, place: Place, rows: list[Row]) -> Table:
    """One line per model and shape."""
    beside = console.width >= _WIDE
    several = len(comparison.shapes) > 1
    energy = any(row.measurement is not None and row.measurement.energy is not None for row in rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", width=2)
    table.add_column("model", overflow="fold", min_width=10)
    if several:
        table.add_column("shape", overflow="fold", min_width=6)
    reference = comparison.reference(place.name)
    titles = ["time", "ratio", "per s", "memory", *(["energy"] if energy else [])]
    if place.price is not None:
        titles.append(comparison.currency or "cost")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    if beside:
        table.add_column("quality")
    for row in rows:
        for label in comparison.shapes:
            part = row.shape(label)
            if part is None:
                continue
            cells = [_mark(comparison, row, label), row.model, *([label] if several else [])]
            cells += [_time(part, beside), _ratio(part, row.model == reference, beside)]
            cells.append(number(part.latency.throughput) if part.latency.throughput is not None else "")
            cells += [_memory(row), *([_energy(row, beside)] if energy else [])]
            if place.price is not None:
                cells.append(_cost(row.cost.get(label), beside))
            if beside:
                cells.append(_quality(row))
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _mark(comparison: Comparison, row: Row, label: str) -> str:
    flag = "" if _quality(row) == "ok" else "!"
    ranking = comparison.ranking("latency", row.target, label)
    if ranking is None or row.side not in ranking.contenders:
        return f" {flag}".rstrip()
    if ranking.winner == row.side:
        return _MARKS["best"] + flag
    first = ranking.order[0]
    verdicts = {
        ranking.pairing(first, side).verdict
        for side in ranking.contenders
        if side != first and row.side in (first, side)
    }
    return _MARKS["undecided" if "undecided" in verdicts else "tie"] + flag


def _time(part: ShapeResult, beside: bool) -> str:
    median = part.latency.median
    return _with(format_amount(median.value, _SECONDS), median, beside)


def _ratio(part: ShapeResult, reference: bool, beside: bool) -> str:
    if part.ratio is None:
        return "1" if reference else ""
    return _with(f"{number(part.ratio.estimate.value)}x", part.ratio.estimate, beside)


def _memory(row: Row) -> str:
    if row.measurement is None or row.measurement.memory is None:
        return ""
    return format_amount(row.measurement.memory.peak, _BYTES)


def _energy(row: Row, beside: bool) -> str:
    if row.measurement is None or row.measurement.energy is None:
        return ""
    joules = row.measurement.energy.joules
    return _with(format_amount(joules.value, _JOULES), joules, beside)


def _cost(cost: Estimate | None, beside: bool) -> str:
    return "" if cost is None else _with(number(cost.value), cost, beside)


def _quality(row: Row) -> str:
    return ", ".join(row.measurement.quality) if row.measurement is not None else ""


def _with(value: str, estimate: Estimate, beside: bool) -> str:
    """What was read once has no interval: none is shown."""
    if estimate.low == estimate.high:
        return value
    half = (estimate.high - estimate.low) / 2 / abs(estimate.value) if estimate.value else 0.0
    return f"{value}{' ' if beside else chr(10)}±{100 * half:.2g} %"
