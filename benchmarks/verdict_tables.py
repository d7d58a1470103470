"""The result of `verdicts.py` as a page of tables."""

from __future__ import annotations

from typing import Any, NamedTuple

Row = dict[str, Any]

_TITLES = {
    "false_alarms": "Equal models: false alarms",
    "power": "One slice of 1,000 among 20 loses 3 points: power",
    "optimism": "The reported worst slice minus the true one, in points",
    "not_detectable": "The same where the loss is hardly detectable, in points",
    "best_of": "The same after choosing the best of 40 candidates, in points",
    "paired_drops": "Coverage: drop of right-or-wrong scores (exact)",
    "accuracies": "Coverage: accuracy (exact)",
    "graded_drops": "Coverage: drop of graded scores",
    "divergences": "Coverage: mean divergence",
    "whole_metrics": "Coverage: drop of metrics that are no mean",
    "calibration": "Coverage: change of the calibration error",
}
_POINTS = ("optimism", "not_detectable", "best_of")  # tables whose numbers are all drops
_DROPS = ("raw_worst_minus_true", "reported_worst_minus_true", "true_drop", "mean_change", "change_with_300_000")


class Outside(NamedTuple):
    """Rows of one table whose coverage is outside 93 to 97 %."""

    table: str
    rows: int
    below: int
    above: int
    lowest: float
    highest: float


def markdown(tables: dict[str, list[Row]], missed: list[str], outside: list[Outside], leniency: str) -> str:
    """All tables, what was missed, and what is `outside` the plain band; `leniency` says how missing is decided."""
    lines = ["# Is what the judgement says true?", ""]
    lines += ["`python benchmarks/verdicts.py`; see `docs/statistics.md` for what the words mean.", ""]
    lines += ["Missed of what was wanted:" if missed else "Nothing wanted is missed.", ""]
    lines += [f"- {line}" for line in missed] + ([""] if missed else [])
    lines += [f"{leniency} Outside the plain 93 to 97 %, all rows counted:", ""]
    lines += ["| table | rows | below 93 % | above 97 % | lowest | highest |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {_TITLES[each.table].removeprefix('Coverage: ')} | {each.rows} | {each.below} | {each.above} | "
        f"{100 * each.lowest:.1f} % | {100 * each.highest:.1f} % |"
        for each in outside
    ]
    lines.append("")
    for name, title in _TITLES.items():
        rows = tables.get(name, [])
        if not rows:
            continue
        names = list(rows[0])
        lines += [f"## {title}", "", f"| {' | '.join(each.replace('_', ' ') for each in names)} |"]
        lines += ["|" + "---|" * len(names)]
        lines += [f"| {' | '.join(_cell(name, each, row[each]) for each in names)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(table: str, column: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if table in _POINTS or column in _DROPS:
        return f"{100 * value:+.2f}"
    if column in ("original_temperature", "candidate_temperature", "sigma"):
        return f"{value:.2f}"
    return f"{100 * value:.1f} %"
