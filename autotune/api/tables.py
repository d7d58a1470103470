"""Trials as tables for the terminal. Values of finalists are those of the final measurement and held-out
data. A ratio whose interval holds one is called a tie, and an absolute time of before a drift is marked.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune import pareto
from autotune.config import StudyConfig
from autotune.evaluation import Evaluation, SliceResult
from autotune.keys import MetricKey, format_amount, parse_key
from autotune.search.drift import drifts
from autotune.trial import LayerOutcome, Trial, Value

NARROW = 110  # columns; below this, intervals stand on a second line
_PER_TARGET = 40  # columns that each further target needs beside
RECOMMENDED = "★"
OWN = "☆"  # the best for one of several targets
STALE = "~"  # behind an absolute time that was taken before its target drifted
_TIES_SHOWN = 5
FOLDED = ("worst slice", "worst drop, pt")  # columns that hold names and may break them
HELDOUT = "heldout"  # the data set that confirms
LOOKS = "looks like"  # before a verdict on search data: the trial was chosen by them, and nothing is confirmed yet
_VERDICT_STYLE = {"pass": "green", "fail": "red", "undecided": "yellow", "insufficient": "yellow"}


def front_table(
    front: Sequence[Trial],
    trials: Sequence[Trial],
    config: StudyConfig,
    recommended: Trial | None,
    *,
    columns: int,
    target: str | None = None,
    own: Trial | None = None,
) -> Table:
    """The front, one trial a row: size, size against the original, latency and its ratio per target, worst
    slice. With `target` only its latency; `own` is the best trial for it alone, which gets a mark of its own.

    Fits into 80 columns for up to two targets: below 110 columns intervals stand on a second line, and several targets
    have one column each.
    """
    targets = config.targets if target is None else (target,)
    narrow = columns < NARROW + _PER_TARGET * (len(targets) - 1)
    header, rows = _front_rows(front, trials, targets, recommended, narrow=narrow, own=own)
    table = _table(None, narrow=narrow)
    for name in header:
        left = name in ("worst slice", "verdict")
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in FOLDED, overflow="fold")
    for trial, row in zip(front, rows, strict=True):
        table.add_row(*row, style="bold" if trial is recommended else "")
    return table


def front_html(front: Sequence[Trial], trials: Sequence[Trial], config: StudyConfig, recommended: Trial | None) -> str:
    """The same as an HTML table, with the legend below."""
    header, rows = _front_rows(front, trials, config.targets, recommended, narrow=False)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"{table}<p>{html.escape(legend(front, recommended, trials, config))}</p>"


def as_text(table: Table, columns: int) -> str:
    """A table as plain text."""
    out = io.StringIO()
    Console(file=out, width=columns, highlight=False, color_system=None).print(table)
    return out.getvalue()


def _front_rows(
    front: Sequence[Trial],
    trials: Sequence[Trial],
    targets: Sequence[str],
    recommended: Trial | None,
    *,
    narrow: bool,
    own: Trial | None = None,
) -> tuple[list[str], list[list[str | Text]]]:
    header = ["trial", "size", "smaller"]
    several = len(targets) > 1
    if not several:  # of one target what its own runtime family has
        front, trials = ([trial.on(targets[0]) for trial in each] for each in (front, trials))
    for target in targets:
        at = f"\n@{target}" if several else ""
        header += [f"time{at}"] if several and narrow else [f"latency{at}", f"time ratio{at}"]
    header += ["worst drop, pt", "verdict"] if narrow else ["worst slice", "drop", "verdict"]
    original = next(
        (t.metrics["size_bytes"].value for t in trials if t.number == 0 and "size_bytes" in t.metrics), None
    )
    separator = "\n" if narrow else " "
    stale = {drift.target: drift.stale for drift in drifts(trials)}
    rows = []
    for trial in front:
        values = shown_values(trial)
        marks = "".join(
            mark
            for mark, marked in ((RECOMMENDED, recommended), (OWN, own))
            if marked and trial.number == marked.number
        )
        row: list[str | Text] = [
            f"{marks} {trial.number}".lstrip(),
            _plain(values, "size_bytes"),
            _smaller(values, original),
        ]
        for target in targets:
            mark = STALE if trial.number in stale.get(target, ()) else ""
            times = [_plain(values, f"latency_p50@{target}") + mark, _ratio(trial, target, separator)]
            row += ["\n".join(times)] if several and narrow else times
        lossy = _lossiest(trial) if several else trial
        evaluation, drop = judged(lossy), _interval(shown_values(lossy), "drop/worst", " ")
        worst = evaluation.worst_slice if evaluation else "-"
        row += [f"{worst}\n{drop.replace(' pt', '')}"] if narrow else [worst, drop]
        rows.append([*row, verdict(trial, everywhere=several, separator=separator)])
    return header, rows


def _lossiest(trial: Trial) -> Trial:
    """The trial as the runtime family has it in which a slice loses most."""
    seen = [trial, *(trial.on(other.targets[0]) for other in trial.elsewhere)]
    known = [each for each in seen if "drop/worst" in shown_values(each)]
    return max(known, key=lambda each: shown_values(each)["drop/worst"].value, default=trial)


def with_recommended(front: Sequence[Trial], recommended: Trial | None) -> list[Trial]:
    """The front, and the recommended trial where it was verified and something that was only searched seems a hair
    better: people look for it in the table. Smallest first, then."""
    if recommended is None or any(trial.number == recommended.number for trial in front):
        return list(front)

    def size(trial: Trial) -> float:
        value = shown_values(trial).get("size_bytes")
        return value.value if value is not None else math.inf

    return sorted([*front, recommended], key=size)


def legend(front: Sequence[Trial], recommended: Trial | None, trials: Sequence[Trial], config: StudyConfig) -> str:
    """What the marks and numbers of the table mean, and what cannot be told apart."""
    parts = []
    if recommended is not None:
        parts.append(f"{RECOMMENDED} recommended")
    finalists = [str(trial.number) for trial in front if trial.final]
    if finalists:
        parts.append(f"measured again and judged on held-out data: {', '.join(finalists)}; the others as searched")
    if any(verdict(trial).plain.startswith(LOOKS) for trial in front):
        parts.append(f"{LOOKS}: by the search data alone, which chose the trial; held-out data may say otherwise")
    parts.append(
        "drop: the largest loss of any slice against the original, corrected for being the largest of many; brackets: "
        "95 % intervals"
    )
    if any(_is_tie(trial, target) for trial in front for target in config.targets):
        parts.append("tie: the interval of the time ratio holds 1, neither is faster")
    tied = _ties(front, trials, config)
    if tied:
        parts.append(f"measured as equal in every objective: {'; '.join(tied)}")
    shown = {trial.number for trial in front}
    parts += [f"{STALE} {drift}" if drift.stale & shown else str(drift) for drift in drifts(trials)]
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _ties(front: Sequence[Trial], trials: Sequence[Trial], config: StudyConfig) -> list[str]:
    """ "3 and 7, 9": trials that intervals and resolution do not tell from a member of the front; each pair once."""
    latest = {trial.number: trial.model_copy(update={"metrics": shown_values(trial)}) for trial in trials}
    members = [latest[trial.number] for trial in front if trial.number in latest]
    found = pareto.ties(members, config.objective_keys, among=latest.values())
    said: list[str] = []
    told: set[tuple[int, int]] = set()
    for number, others in found.items():
        new = [other for other in others if (other, number) not in told]
        told |= {(number, other) for other in new}
        more = f" and {len(new) - _TIES_SHOWN} more" if len(new) > _TIES_SHOWN else ""
        if new:
            said.append(f"{number} and {', '.join(map(str, new[:_TIES_SHOWN]))}{more}")
    return said


def shown_values(trial: Trial) -> Mapping[str, Value]:
    """The best knowledge of each metric: final values over those of the search."""
    return {**trial.metrics, **trial.final}


def judged(trial: Trial) -> Evaluation | None:
    """The evaluation that counts: on held-out data where there is one."""
    found = sorted(trial.evaluations, key=lambda e: e.dataset == HELDOUT)
    return found[-1] if found else None


def verdict(trial: Trial, *, everywhere: bool = True, separator: str = " ") -> Text:
    """fail if any slice fails (`everywhere`: in any runtime family), undecided if any is, else pass; trial 0 is the
    original itself. What held-out data have not confirmed only "looks like" pass or fail."""
    if trial.number == 0:
        return Text("original")
    evaluations = _evaluations(trial, everywhere=everywhere)
    if not evaluations:
        return Text(trial.state)
    verdicts = {result.verdict for evaluation in evaluations for result in evaluation.slices}
    # A slice too small to decide by itself does not speak against the model; its loss counts through
    # shrinkage.
    word = next((v for v in ("fail", "undecided", "pass", "insufficient") if v in verdicts), "insufficient")
    looks = judged_on(trial, everywhere=everywhere) != HELDOUT
    return verdict_text(word, looks=looks, separator=separator)


def verdict_data(trial: Trial) -> dict[str, str | None]:
    """The same for JSON, and the data that it rests on: "heldout", "search" or none."""
    return {"verdict": verdict(trial).plain, "judged_on": judged_on(trial) if trial.number else None}


def verdict_text(word: str, *, looks: bool, separator: str = " ") -> Text:
    """A verdict in its colour; with `looks` it is one on search data."""
    if looks and word in ("pass", "fail"):
        return Text(f"{LOOKS}{separator}{word}", style="yellow")
    return Text(word, style=_VERDICT_STYLE[word])


def judged_on(trial: Trial, *, everywhere: bool = True) -> str | None:
    """ "heldout" where all that was judged was so on held-out data, else "search"; None where nothing was."""
    found = {evaluation.dataset for evaluation in _evaluations(trial, everywhere=everywhere)}
    return None if not found else HELDOUT if found == {HELDOUT} else "search"


def _evaluations(trial: Trial, *, everywhere: bool) -> list[Evaluation]:
    seen = [trial, *(trial.on(other.targets[0]) for other in trial.elsewhere if everywhere)]
    return [evaluation for each in seen if (evaluation := judged(each)) is not None]


def value_text(value: Value, key: MetricKey, *, separator: str = " ") -> str:
    """A number with its interval: 0.831x [0.829, 0.834]. An exact number stands alone."""
    text = format_amount(value.value, key)
    if value.low == value.high:
        return text
    low, high = (format_amount(bound, key) for bound in (value.low, value.high))
    unit = text.lstrip("-0123456789.e+")
    if all(bound.lstrip("-0123456789.e+") == unit for bound in (low, high)):  # one unit for all three is enough
        low, high = (bound.removesuffix(unit) for bound in (low, high))
    return f"{text}{separator}[{low}, {high}]"


def metrics_table(trial: Trial, *, columns: int) -> Table:
    """Every number of a trial: as searched, and final where it is a finalist."""
    separator = "\n" if columns < NARROW else " "
    table = _table("numbers", narrow=columns < NARROW)
    table.add_column("metric", overflow="fold")
    table.add_column("search", justify="right", no_wrap=True)
    if trial.final:
        table.add_column("final, held-out", justify="right", no_wrap=True)
    for text in sorted({*trial.metrics, *trial.final}):
        row = [text, _interval(trial.metrics, text, separator)]
        table.add_row(*row, *([_interval(trial.final, text, separator)] if trial.final else []))
    return table


def slices_table(evaluation: Evaluation, *, columns: int) -> Table:
    """One slice a row, the largest loss first, "all" on top."""
    narrow = columns < NARROW
    table = _table(
        f"{evaluation.metric} per slice on {evaluation.dataset} data, run on {evaluation.target}",
        narrow=narrow,
    )
    table.add_column("slice", overflow="fold")
    for name in ("n", "original", "this", "drop", "flips -/+"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    key, drop = MetricKey(evaluation.metric), MetricKey("drop")
    first, rest = evaluation.slices[0], evaluation.slices[1:]
    for result in (first, *sorted(rest, key=lambda r: -r.drop.value)):
        table.add_row(
            result.name,
            str(result.n),
            format_amount(result.original.value, key),
            format_amount(result.candidate.value, key),
            value_text(Value(**result.drop.model_dump()), drop, separator="\n" if narrow else " "),
            f"{result.flips_worse}/{result.flips_better}",
            _slice_verdict(result, looks=evaluation.dataset != HELDOUT, separator="\n" if narrow else " "),
        )
    return table


def layers_table(layers: Sequence[LayerOutcome], *, columns: int) -> Table:
    """What was asked of each layer and what ran."""
    table = _table("layers", narrow=columns < NARROW)
    table.add_column("layer", overflow="fold")
    table.add_column("asked", no_wrap=True)
    table.add_column("ran", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for outcome in layers:
        remark = outcome.note
        if outcome.honoured is False:
            remark = f"not as asked{': ' + outcome.note if outcome.note else ''}"
        table.add_row(
            outcome.layer,
            outcome.asked,
            outcome.ran,
            format_amount(outcome.seconds, parse_key("latency_p50@t")),
            remark,
            style="yellow" if outcome.honoured is False else "",
        )
    return table


def _slice_verdict(result: SliceResult, *, looks: bool, separator: str) -> Text:
    more = f" (+{result.needed})" if result.needed and result.verdict == "undecided" else ""
    return verdict_text(result.verdict, looks=looks, separator=separator).append(more)


def _table(title: str | None, *, narrow: bool) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0) if narrow else (0, 2, 0, 0),
        show_lines=False,
    )


def _plain(values: Mapping[str, Value], text: str) -> str:
    return format_amount(values[text].value, parse_key(text)) if text in values else "-"


def _interval(values: Mapping[str, Value], text: str, separator: str) -> str:
    if text not in values:
        return "-"
    return value_text(values[text], parse_key(text), separator=separator)


def _is_tie(trial: Trial, target: str) -> bool:
    """The interval of the time ratio holds one: neither it nor the original is faster."""
    value = shown_values(trial).get(f"latency_ratio@{target}")
    return trial.number != 0 and value is not None and value.low <= 1.0 <= value.high


def _ratio(trial: Trial, target: str, separator: str) -> str:
    text = _interval(shown_values(trial), f"latency_ratio@{target}", separator)
    if not _is_tie(trial, target):
        return text
    number, found, interval = text.partition(separator)
    return f"{number} tie{found}{interval}"


def _smaller(values: Mapping[str, Value], original_bytes: float | None) -> str:
    if original_bytes is None or "size_bytes" not in values or values["size_bytes"].value <= 0:
        return "-"
    return f"{original_bytes / values['size_bytes'].value:.2f}x"
