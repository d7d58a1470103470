"""A judgement for the screen: two tables per data set, then what they say in words."""

from __future__ import annotations

import textwrap
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.evaluation import Evaluation, SliceResult
from autotune.judge.models import ModelJudgement
from autotune.judge.words import percent, points, sentences
from autotune.slices import ALL

_WIDE = 110  # columns from which intervals stand beside their numbers, not below
_NARROWEST = 16  # columns for the names of slices, where there is no room for more
_WORDS = {"insufficient": "too few"}
_STYLES = {"pass": "green", "fail": "red", "undecided": "yellow", "insufficient": "dim"}


def print_judgement(console: Console, judgement: ModelJudgement) -> None:
    """Tables, then sentences."""
    found = judgement.fingerprint
    place = f"{judgement.target}: {found.cpu_model}, {found.runtime} {found.runtime_version}, {found.provider}"
    console.print(Text(f"{judgement.candidate} against {judgement.original}, run on {place}"), soft_wrap=True)
    for evaluation in judgement.evaluations:
        console.print()
        console.print(verdict_table(evaluation, columns=console.width))
        console.print(evidence_table(evaluation))
    for note in judgement.notes:
        _print(console, f"note: {note}")
    for line in sentences(judgement):
        _print(console, f"- {line}")


def verdict_table(evaluation: Evaluation, *, columns: int, looks: bool = False) -> Table:
    """One slice a row, the whole first, then from the largest drop to the smallest. `looks`: the data chose the model,
    so that a verdict on them is only what it looks like."""
    table = _table(f"{evaluation.metric} on {evaluation.dataset} data; drops in points, with 95 % intervals")
    beside = columns >= _WIDE
    _add_names(table, evaluation)
    for name in ("n", "original", "candidate", "drop", "-/+"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("needs", justify="right", no_wrap=True)
    for result in ordered(evaluation):
        table.add_row(
            named(result),
            f"{result.n:,}",
            _with(percent(result.original.value), f"{_p(result.original.low)} to {_p(result.original.high)}", beside),
            _with(
                percent(result.candidate.value), f"{_p(result.candidate.low)} to {_p(result.candidate.high)}", beside
            ),
            _with(points(result.drop.value), f"{points(result.drop.low)} to {points(result.drop.high)}", beside),
            f"{result.flips_worse}/{result.flips_better}",
            _verdict(result, looks, beside),
            f"+{result.needed:,}" if result.needed else "",
        )
    return table


def evidence_table(evaluation: Evaluation) -> Table:
    """The same rows: what the verdicts rest on. What was not computed is left out where no slice has it."""
    results = ordered(evaluation)
    table = _table("what the verdicts rest on")
    _add_names(table, evaluation)
    columns: list[tuple[str, list[str]]] = [
        ("limit", [points(r.limit if r.limit is not None else evaluation.limit) for r in results]),
        ("p", [_short(r.p_value) for r in results]),
        ("q", [_short(r.q_value) for r in results]),
        ("can see", [_maybe(r.detectable) for r in results]),
        ("noise", [_maybe(r.noise) for r in results]),
        ("KL", ["" if r.kl is None else f"{r.kl.value:.2g}" for r in results]),
        ("ECE", [_pair(r.ece_original, r.ece_candidate) for r in results]),
        ("sure, wrong", [_pair(r.overconfident_original, r.overconfident_candidate) for r in results]),
        ("kind", [r.kind + (", hypothesis" if r.hypothesis else "") for r in results]),
    ]
    kept = [(name, cells) for name, cells in columns if any(cells)]
    for name, _ in kept:
        table.add_column(name, justify="left" if name == "kind" else "right", overflow="fold")
    for index, result in enumerate(results):
        table.add_row(named(result), *(cells[index] for _, cells in kept))
    table.caption = (
        "needs: about so many more samples would decide; p: exact paired test of any change; q: of a loss, after "
        "Benjamini-Hochberg; can see: the true drop that a test of this slice alone would show 4 times in 5; noise: "
        "the original against itself; KL: of the outputs; ECE, sure and wrong (in points): before > after."
    )
    table.caption_justify = "left"
    return table


def as_data(judgement: ModelJudgement) -> dict[str, Any]:
    """For --json: without the answers to single samples, with verdict and sentences."""
    data = judgement.model_dump(mode="json")
    for evaluation in data["evaluations"]:
        evaluation.pop("outcomes")
    return {"verdict": judgement.verdict, "sentences": sentences(judgement), **data}


def ordered(evaluation: Evaluation) -> list[SliceResult]:
    """The whole first, then from the largest drop to the smallest; further metrics after the first."""
    groups: dict[str, list[SliceResult]] = {}
    for result in evaluation.slices:
        groups.setdefault(result.metric, []).append(result)
    return [
        result
        for group in groups.values()
        for result in (group[0], *sorted(group[1:], key=lambda r: (-r.drop.value, r.name)))
    ]


def named(result: SliceResult) -> str:
    return "all samples" if result.name == ALL else result.name


def _add_names(table: Table, evaluation: Evaluation) -> None:
    longest = max(len(named(result)) for result in evaluation.slices)
    table.add_column("slice", overflow="fold", min_width=min(longest, _NARROWEST))


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _verdict(result: SliceResult, looks: bool, beside: bool) -> Text:
    if looks:
        from autotune.api.tables import verdict_text

        if result.verdict in ("pass", "fail"):
            return verdict_text(result.verdict, looks=True, separator=" " if beside else "\n")
    return Text(_WORDS.get(result.verdict, result.verdict), style=_STYLES[result.verdict])


def _with(value: str, interval: str, beside: bool) -> str:
    return f"{value}{' ' if beside else chr(10)}({interval})"


def _p(value: float) -> str:
    return f"{100 * value:.1f}"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _maybe(value: float | None) -> str:
    return "" if value is None else points(value)


def _pair(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{points(before)} > {points(after)}"


def _print(console: Console, text: str) -> None:
    for piece in textwrap.wrap(text, console.width, subsequent_indent="  ", break_on_hyphens=False) or [""]:
        console.print(Text(piece), soft_wrap=True)
