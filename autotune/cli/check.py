"""`autotune check`: parse the study, probe its targets, run the baseline, estimate the time. Spends nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from autotune.cli.output import AllTargets, JsonFlag, StoreOption, StudyArgument, messages, print_json, results, say
from autotune.keys import format_amount, parse_key

if TYPE_CHECKING:
    from autotune.search.check import CheckReport
    from autotune.search.offers import Part

_LAYERS_SHOWN = 12
_SLICES_SHOWN = 30
_NAMES_SHOWN = 4
_PARTS_SHOWN = 12
_KINDS = {"channels": "channel", "neurons": "neuron", "heads": "head"}  # of one


def check(
    study: StudyArgument,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="T", help="Instead of the study's targets; repeatable."),
    ] = None,
    store: StoreOption = None,
    all_targets: AllTargets = False,
    as_json: JsonFlag = False,
) -> None:
    """Check a study without searching: what can be searched, on what, from which baseline, and how long it
    takes.
    """
    from autotune.api.watch import ProgressView
    from autotune.config import load_study, load_workload, override
    from autotune.search.study import Study

    loaded = override(load_study(study), targets=target or (), all_targets=all_targets)
    workload = load_workload(loaded, say=say)
    with (
        loaded.placing(),
        Study.open(loaded.config, workload, store=store, folder=loaded.folder) as opened,
        ProgressView(messages()) as view,
    ):
        report = opened.check(view.update)
    if as_json:
        print_json(report)
    else:
        _print(results(), report)


def _print(console: Console, report: CheckReport) -> None:
    console.print(f"[bold]{report.study}[/bold]: the study is in order")
    for target, fingerprint in report.fingerprints.items():
        console.print(
            f"  {target}: {fingerprint.cpu_model}, {fingerprint.threads} of {fingerprint.cores} cores, "
            f"{fingerprint.runtime} {fingerprint.runtime_version}, {fingerprint.provider}",
            markup=False,
        )
    for left in report.left_out:
        short, _, remedy = left.why.partition("; ")
        console.print(f"  {left.target}: LEFT OUT: {short}", markup=False, style="yellow", soft_wrap=True)
        if remedy:
            console.print(f"    {remedy}", markup=False, style="yellow", soft_wrap=True)
        if left.keys:
            console.print(f"    with it go {', '.join(left.keys)}", markup=False, style="yellow")
    for text, value in sorted(report.baseline.metrics.items()):
        if parse_key(text).name in ("size_bytes", "latency_p50", "memory_peak") or "/" not in text:
            console.print(f"  original {text}: {format_amount(value.value, parse_key(text))}", markup=False)
    console.print(_layers(report))
    console.print(_techniques(report))
    for line in (*_parts(report), *_lost(report), *_left_alone(report)):
        console.print(line, markup=False)
    console.print(_slices(report))
    for skipped in report.skipped:
        console.print(f"  not searchable: {skipped.name} ({skipped.op}): {skipped.reason}", markup=False)
    for note in report.notes:
        console.print(f"  note: {note}", markup=False)
    for warning in report.warnings:
        console.print(f"  warning: {warning}", markup=False, style="yellow")
    if report.layers:
        from autotune.search.forecast import duration

        layers = "1 layer" if len(report.layers) == 1 else f"{len(report.layers)} layers"
        trials = "1 trial" if report.trials == 1 else f"{report.trials} trials"
        console.print(
            f"{layers}, a space of 10^{report.space_log10:.1f} recipes; {trials} at about "
            f"{report.seconds_per_trial:.1f} s{' and the finalists' if report.finalists else ''} take about "
            f"{duration(report.seconds_total)}"
        )
    else:
        console.print("nothing in this model can be searched; the warning above says why")


def _layers(report: CheckReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("layer", "type", "parameters", "formats"):
        table.add_column(column, justify="right" if column == "parameters" else "left", overflow="fold")
    largest = sorted(report.layers, key=lambda layer: -layer.parameters)
    for layer in largest[:_LAYERS_SHOWN]:
        table.add_row(layer.name, layer.op, f"{layer.parameters:,}", ", ".join(layer.choices) or "none")
    if len(largest) > _LAYERS_SHOWN:
        rest = largest[_LAYERS_SHOWN:]
        table.add_row(f"and {len(rest)} smaller ones", "", f"{sum(layer.parameters for layer in rest):,}", "")
    return table


def _techniques(report: CheckReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("technique", "decisions", "layers", "choices"):
        table.add_column(column, justify="right" if column in ("decisions", "layers") else "left", overflow="fold")
    for offer in report.techniques:
        counts = (f"{offer.decisions}", f"{offer.layers}") if offer.decisions else ("", "")
        table.add_row(offer.technique, *counts, ", ".join(offer.choices) or "nothing to offer here")
    return table


def _parts(report: CheckReport) -> Iterator[str]:
    """What a technique cuts as a whole, and what is cut with it."""
    for offer in report.techniques:
        for part in offer.parts[:_PARTS_SHOWN]:
            others = _some(part.changes)
            if part.kind in _KINDS:
                follow = f", and {others} with it" if others else ""
                norms = "; norms take their statistics over what is left" if part.normed else ""
                yield f"  {offer.technique} {part.layer}: {_amount(part)}{follow}{norms}"
            else:
                layers = "1 layer" if part.size == 1 else f"{part.size} layers"
                yield f"  {offer.technique} {part.layer}: a block of {layers}{f' with {others}' if others else ''}"
        if len(offer.parts) > _PARTS_SHOWN:
            yield f"  {offer.technique}: and {len(offer.parts) - _PARTS_SHOWN} more"


def _amount(part: Part) -> str:
    """How many channels, neurons or heads there are, and in how many groups they go where several go as one."""
    if part.total <= part.size:
        return f"{part.size} {_KINDS[part.kind] if part.size == 1 else part.kind}"
    if part.even:
        return f"{part.size} groups of {part.total // part.size} {part.kind}"
    return f"{part.total} {part.kind}, in {part.size} groups"


def _lost(report: CheckReport) -> Iterator[str]:
    """In one line per technique: choices that layers do not have which it has others for, and why."""
    for offer in report.techniques:
        by_reason: dict[str, list[str]] = {}
        for each in offer.lost:
            layers = "1 layer" if each.layers == 1 else f"{each.layers} layers"
            by_reason.setdefault(each.reason, []).append(f"{each.choice} for {layers}")
        if by_reason:
            said = "; ".join(f"{', '.join(what)}: {reason}" for reason, what in by_reason.items())
            yield f"  {offer.technique} leaves out {said}"


def _left_alone(report: CheckReport) -> Iterator[str]:
    """Why a technique does not touch a layer; of many layers with one reason some names."""
    for offer in report.techniques:
        for alone in offer.left_alone:
            yield f"  {offer.technique} leaves alone: {_some(alone.names)}: {alone.reason}"


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _slices(report: CheckReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("slice", "kind", "n", "held-out"):
        table.add_column(column, justify="right" if column in ("n", "held-out") else "left", overflow="fold")
    for each in report.slices[:_SLICES_SHOWN]:
        there = "" if each.heldout is None else f"{each.heldout:,}"
        table.add_row(each.name, each.kind, f"{each.n:,}", there)
    if len(report.slices) > _SLICES_SHOWN:
        table.add_row(f"and {len(report.slices) - _SLICES_SHOWN} more", "", "", "")
    return table
