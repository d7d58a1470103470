"""The section on zeros: what they take from a download, and what they do to the time on each target."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.info import units
from dashboards.info.sparsity import SparsityRow
from dashboards.page.html import Html, join, table, tag


def sparsity_section(rows: Sequence[SparsityRow]) -> Html | None:
    """None where the study makes no zeros."""
    if not rows:
        return None
    fast = [row for row in rows if row.faster]
    said = (
        "A file with zeros is as large as one without, and smaller only where it is compressed, as a download is. "
        "Time is what the runtime makes of it: each choice was made in every layer that has it, and timed against the "
        "dense model in alternating pairs."
    )
    head = ("target", "choice", "layers", "download", "saved", "time, dense = 1", "what it is worth here")
    return tag(
        "section",
        tag("h2", "What zeros buy"),
        tag("p", _lead(rows, fast), class_="lead"),
        tag("p", said, class_="muted"),
        table(head, [_row(row) for row in rows], numeric=(2, 3, 4, 5)),
        id="zeros",
    )


def _lead(rows: Sequence[SparsityRow], fast: Sequence[SparsityRow]) -> str:
    """What was measured, and no more: what the runtime's kernels do inside is not looked at."""
    measured = [row for row in rows if row.time is not None]
    if not measured:
        return "A smaller download; what zeros do to the time could not be measured."
    settled = [row for row in measured if not row.faster and not row.undecided]
    said = ["Faster: " + _named(fast) + "."] if fast else []
    if settled:
        smaller = "" if fast else "A smaller download. "
        said.append(f"{smaller}No speed-up, measured: {_named(settled)}.")
    undecided = [row for row in measured if row.undecided]
    if undecided:
        said.append(f"Not told apart from the dense model: {_named(undecided)}; measured again by the next run.")
    return " ".join(said)


def _named(rows: Sequence[SparsityRow]) -> str:
    return ", ".join(f"{row.choice} on {row.target}" for row in rows)


def _row(row: SparsityRow) -> tuple[object, ...]:
    time = "" if row.time is None else f"{units.factor(row.time.value)} ({units.interval(row.time)})"
    return (
        row.target,
        tag("code", row.choice),
        f"{row.layers:,}",
        f"{units.size(row.dense_download)} to {units.size(row.download)}",
        units.percent(row.saved),
        time,
        join((tag("span", row.verdict, class_="tag good" if row.faster else "tag"),)),
    )
