"""One measurement for the screen: every number with how sure it is, and every number that is missing with the why."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.keys import format_amount, parse_key
from hwprofiles.comparison.verdicts import PAIRED, judge
from hwprofiles.comparison.words import FLAGS, about, number
from hwprofiles.measurement import Estimate, Latency, Measurement, Ratio, ShapeResult
from hwprofiles.openings import LEAST_PAIRS

_SECONDS, _BYTES, _JOULES = (parse_key(key) for key in ("latency_p50@t", "memory_peak@t", "energy_j@t"))
_FLOORS = {"p90": 64, "p99": 662}  # samples that an upper estimate at 99 % confidence needs
_INDENT = 14  # columns of the names of facts


def print_measurement(console: Console, record: Measurement, model: Path, against: Path | None) -> None:
    """Everything that was measured, for a person."""
    found = record.fingerprint
    console.print(
        f"{record.target}: {found.cpu_model}, {found.threads} of {found.cores} cores, {found.runtime} "
        f"{found.runtime_version}, {found.provider} ({', '.join(filter(None, (record.provenance, record.label)))})",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if record.provenance != "hardware":
        console.print(f"these are times of something {record.provenance}: they say nothing about the hardware")
    for index, part in enumerate(_parts(record)):
        if part.label:
            console.print(Text(f"shape {part.label}", style="bold"))
        _print_side(console, model, part.latency, record, whole=index == 0)
        if part.baseline_latency is not None and against is not None:
            _print_side(console, against, part.baseline_latency, record, whole=False)
        if part.ratio is not None and against is not None:
            _facts(console, [("ratio", f"{_ratio(part.ratio)}: {_claim(part.ratio, model, against, record)}")])
    _facts(console, _about(record))


def _parts(record: Measurement) -> list[ShapeResult]:
    if record.by_shape and record.scenario.shapes:
        return list(record.by_shape)
    assert record.latency is not None  # a failure is raised, not printed
    return [
        ShapeResult(
            label="",
            shapes={},
            latency=record.latency,
            baseline_latency=record.baseline_latency,
            ratio=record.ratio,
        )
    ]


def _print_side(console: Console, name: Path, latency: Latency, record: Measurement, *, whole: bool) -> None:
    """`whole`: with what is measured of the candidate only and does not depend on the shape."""
    console.print(Text(str(name), style="bold"), soft_wrap=True)
    openings = len(set(latency.openings))
    blocks = f"{len(latency.blocks)} blocks" + (f" in {openings} openings" if openings else "")
    rows = [("time", f"{_interval(latency.median)}, median of {blocks} of {latency.iterations:,} inferences")]
    rows += [(name, _percentile(name, latency)) for name in _FLOORS]
    if latency.throughput is not None:
        rows.append(("throughput", f"{number(latency.throughput)} items per second, one inference after the other"))
    rows.append(("CPU time", f"{format_amount(latency.cpu_median, _SECONDS)} per inference"))
    rows.append(("load", format_amount(latency.load_seconds, _SECONDS)))
    rows.append(("first", f"{format_amount(latency.first_seconds, _SECONDS)} for the first inference after loading"))
    if latency.cold_seconds is not None:
        cold = format_amount(latency.cold_seconds, _SECONDS)
        rows.append(("cold start", f"{cold} from the start of a process to its first answer"))
    if whole:
        rows += [("memory", _memory(record)), ("energy", _energy(record))]
    _facts(console, rows)


def _percentile(name: str, latency: Latency) -> str:
    value = getattr(latency, name)
    if value is None:
        return f"needs {_FLOORS[name]} samples, there are {latency.iterations:,}"
    return f"{format_amount(value, _SECONDS)} at most, with 99 % confidence if samples are independent"


def _memory(record: Measurement) -> str:
    memory = record.memory
    if memory is None:
        return "not asked for: the scenario has memory_runs = 0"
    peak, own, loaded = (
        format_amount(size, _BYTES)
        for size in (memory.peak, memory.import_only, max(0, memory.load_peak - memory.import_only))
    )
    return f"{peak} at its peak, {loaded} while loading; beyond the {own} of Python and the runtime"


def _energy(record: Measurement) -> str:
    if record.energy is not None:
        energy = record.energy
        rest = f"{energy.idle_watts:.1f} W at rest"
        low, value, high = (
            format_amount(joules, _JOULES) for joules in (energy.joules.low, energy.joules.value, energy.joules.high)
        )
        return f"{value} ({low} to {high}) per inference above {rest}, by {energy.source}"
    if record.scenario.energy_seconds == 0:
        return "not asked for: energy_seconds is 0"
    why = record.environment.get("energy")
    return str(why) if why else "no counter that could be read"


def _ratio(ratio: Ratio) -> str:
    openings = len(set(ratio.openings))
    pairs = f"{ratio.pairs} pairs" + (f" in {openings} openings" if openings else "")
    estimate = ratio.estimate
    return f"{estimate.value:.3f}x ({estimate.low:.3f} to {estimate.high:.3f}) from {pairs}"


def _claim(ratio: Ratio, model: Path, against: Path, record: Measurement) -> str:
    """By the rule of `compare`."""
    estimate = ratio.estimate
    value, low, high = math.log(estimate.value), math.log(estimate.low), math.log(estimate.high)
    least = max(record.scenario.min_pairs, LEAST_PAIRS[record.scenario.phase])
    missing = max(1, least - ratio.pairs) if "short" in record.quality else 0
    verdict, more = judge((value, low, high), PAIRED, ratio.pairs, missing)
    if verdict == "tie":
        return "a tie"
    if verdict == "undecided" and more is not None:
        if missing:
            return f"not enough data, too few pairs for a decision; {about(more)} would do"
        return f"they cannot be told apart yet, {about(more)} would settle it"
    faster, slower = (model, against) if verdict == "less" else (against, model)
    return f"{faster.name} is faster than {slower.name}" if faster.name != slower.name else f"{faster} is faster"


def _about(record: Measurement) -> list[tuple[str, str]]:
    """Under which conditions, how good, and what is not known."""
    rows = []
    if record.conditions is not None:
        told = record.conditions
        facts = [f"threads {told.threads}", f"batch {told.batch}", f"arena {told.arena}", f"clocks {told.clocks}"]
        facts += ["CUDA graph " + ("on" if told.cuda_graph else "off")] if told.cuda_graph is not None else []
        facts += ["transfers " + ("timed" if told.transfers else "not timed")] if told.transfers is not None else []
        rows.append(("conditions", ", ".join(facts)))
    for flag in record.quality:
        why = record.environment.get("disturbed") if flag == "contended" else None
        rows.append(("quality", f"{flag}: {FLAGS[flag]}{f' ({why})' if why else ''}"))
    unread = record.environment.get("unread")
    if unread:
        rows.append(("not read", f"{unread}: this machine does not tell"))
    return rows


def _interval(estimate: Estimate) -> str:
    value, low, high = (format_amount(seconds, _SECONDS) for seconds in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _facts(console: Console, rows: list[tuple[str, str]]) -> None:
    """A narrow column of names and a wide one of what is known, wrapped at the edge of the screen."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=_INDENT - 2)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(f"  {name}"), Text("\n".join(textwrap.wrap(text, max(24, console.width - _INDENT - 4)))))
    console.print(table)
