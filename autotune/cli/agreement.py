"""A parity report for the screen: a table, then for each target what it means and the first layer that diverges."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.parity.report import Divergence, OutputParity, Pair, ParityReport, TargetParity
from autotune.parity.words import amount, share

_COLOURS = {"agree": "green", "disagree": "red", "not compared": "yellow"}
_JUDGED = {"argmax": "largest class", "numbers": "distance", "exact": "equality"}


def print_parity(console: Console, report: ParityReport) -> None:
    """Everything that was found, for a person."""
    samples = "1 sample" if report.samples == 1 else f"{report.samples} samples"
    console.print(f"{report.name}: {samples}, against {report.reference}", markup=False, soft_wrap=True)
    if report.reference_note:
        console.print(report.reference_note, markup=False, soft_wrap=True, style="yellow")
    console.print(_table(report.targets))
    for target in report.targets:
        _print_target(console, target)
    for pair in report.pairs:
        console.print(f"  {_pair(pair)}", markup=False, soft_wrap=True)
    console.print(Text(report.sentence, style="bold"), soft_wrap=True)


def _table(targets: Sequence[TargetParity]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, right in (
        ("target", 0), ("answers", 0), ("output", 0), ("judged by", 0), ("equal", 1), ("interval", 1),
        ("distance", 1), ("worst sample", 1), ("max abs", 1),
    ):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for target in targets:
        verdict = Text(target.verdict, style=_COLOURS[target.verdict])
        for index, output in enumerate(target.outputs):
            first = (Text(_name(target)), verdict) if index == 0 else (Text(""), Text(""))
            table.add_row(*first, *(Text(cell) for cell in _cells(output)))
        if not target.outputs:
            table.add_row(Text(_name(target)), verdict)
    return table


def _name(target: TargetParity) -> str:
    """With what it is, where that is no hardware."""
    return target.target if target.provenance == "hardware" else f"{target.target} ({target.provenance})"


def _cells(output: OutputParity) -> tuple[str, ...]:
    agreement = output.agreement
    equal = f"{round(agreement.value * output.rows)} of {output.rows}" if agreement is not None else ""
    interval = f"{share(agreement.low)} to {share(agreement.high)}" if agreement is not None else ""
    worst = amount(output.worst_distance) if output.worst_distance is not None else "?"
    return (
        output.output,
        _JUDGED[output.kind],
        equal,
        interval,
        "?" if output.distance is None else amount(output.distance),
        f"{worst} (#{output.worst_sample})",
        "?" if output.max_abs is None else f"{output.max_abs:.2g}",
    )


def _print_target(console: Console, target: TargetParity) -> None:
    console.print(Text(target.sentence), soft_wrap=True)
    if target.first is not None:
        _print_divergence(console, target.first)
    elif target.layers:
        worst = max((layer.distance or 0.0 for layer in target.layers), default=0.0)
        console.print(
            f"  no layer diverges: of {len(target.layers)} intermediate results the furthest is {amount(worst)} away",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    for note in target.notes:
        console.print(f"  note: {note}", markup=False, soft_wrap=True)


def _print_divergence(console: Console, first: Divergence) -> None:
    where = first.where
    name = f"{where.op} {where.node}"
    layer = f", layer {where.layer}" if where.layer not in ("", where.node) else ""
    kind = "only when fused" if first.only_when_fused else first.cause
    console.print(Text(f"  first layer that diverges: {name}{layer} ({kind})", style="bold"), soft_wrap=True)
    own = "" if where.own is None else f", by itself {amount(where.own)}"
    away = where.mismatch or amount(where.distance)
    console.print(f"  its result {where.tensor}: {away} away{own}", markup=False, soft_wrap=True)
    console.print(f"  {first.explanation}", markup=False, soft_wrap=True)


def _pair(pair: Pair) -> str:
    if pair.equal:
        return f"{pair.one} and {pair.other} give the same bits"
    away = "cannot be told in a number" if pair.distance is None else amount(pair.distance)
    agreement = "" if pair.agreement is None else f", {share(pair.agreement)} of the classes are equal"
    return f"{pair.one} and {pair.other} differ: distance {away}{agreement}"
