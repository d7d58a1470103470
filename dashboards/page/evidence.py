"""The last section: on what, with which versions and how often it was measured, and what went wrong."""

from __future__ import annotations

from dashboards.info import units
from dashboards.info.protocol import Device, MeasurementRow, Protocol, openings
from dashboards.page.html import Html, join, table, tag
from hwprofiles.measurement import Conditions, Measurement


def protocol_section(info: Protocol, notes: tuple[str, ...], agreement: Html | None = None) -> Html:
    """Devices, conditions, data sets, the `agreement` of the targets' answers, measurements, failures."""
    parts = [
        tag("h2", "How it was measured"),
        tag(
            "p",
            "Candidate and original were timed in interleaved pairs, each ratio with a 95 % interval; "
            "answers were compared on the same samples.",
            class_="lead",
        ),
        *(tag("p", warning, class_="notice") for warning in info.warnings),
        tag("h3", "Devices"),
        table(
            ("target", "processor", "runtime", "threads", "batch", "system", "fingerprint", "measurements"),
            [_device(device) for device in info.devices],
            numeric=(3, 4, 7),
            empty="Nothing was measured.",
        ),
        tag("h3", "Conditions"),
        table(
            ("target", "runtime", "allocator", "clocks", "accelerator", "how it is used", "not told by the machine"),
            [row for device in info.devices for row in _conditions(device)],
            empty="Nothing was measured.",
        ),
        tag("h3", "Data"),
        table(
            ("data set", "samples", "metric", "judgements", "sha256"),
            [
                (d.name, f"{d.n:,}", d.metric, d.evaluations, tag("code", d.digest[:16], title=d.digest))
                for d in info.datasets
            ],
            numeric=(1, 3),
            empty="Nothing was judged.",
        ),
        agreement,
        _measurements(info),
        tag("h3", "Failed trials"),
        _failed(info),
        _rejected(info),
    ]
    if notes:
        parts += [
            tag("h3", "Notes on the model"),
            tag("ul", *(tag("li", note) for note in notes), class_="plain"),
        ]
    return tag("section", *parts, id="protocol")


def _failed(info: Protocol) -> Html:
    rows = [(f"#{p.trial}", p.kind, p.stage, p.message, p.proposer) for p in info.problems if p.state == "failed"]
    head = ("trial", "cause", "stage", "what happened", "proposed by")
    return table(head, rows, empty="None: every trial was built, measured and judged, or rejected for a reason.")


def _rejected(info: Protocol) -> Html | None:
    rows = [(f"#{p.trial}", p.stage, p.message, p.proposer) for p in info.problems if p.state == "rejected"]
    if not rows:
        return None
    head = ("trial", "last stage", "limit that it broke", "proposed by")
    return tag("details", tag("summary", f"{len(rows)} rejected trials, and why"), table(head, rows))


def _device(device: Device) -> tuple[object, ...]:
    found = device.fingerprint
    memory = f"{units.size(found.memory_total)} memory"
    return (
        join(
            (
                device.target,
                " ",
                tag("span", device.provenance, class_="tag" if device.provenance == "hardware" else "tag warn"),
                " ",
                tag("span", device.label, class_="tag warn") if device.label else None,
                tag("div", f"over {device.transport}", class_="muted") if device.transport else None,
            )
        ),
        join(
            (
                found.cpu_model,
                tag("div", f"{found.cores} cores, {memory}", class_="muted"),
                tag("div", " ".join(found.isa), class_="muted mono") if found.isa else None,
            )
        ),
        join((f"{found.runtime} {found.runtime_version}", tag("div", found.provider, class_="muted"))),
        found.threads,
        device.batch,
        join(
            (
                f"{found.system}, {found.machine}",
                tag("div", f"Python {found.python}, numpy {found.numpy}", class_="muted"),
            )
        ),
        tag("code", found.key),
        device.measurements,
    )


def _conditions(device: Device) -> list[tuple[object, ...]]:
    """What a time means nothing without; one row for each set of conditions."""
    return [
        (
            device.target,
            f"{found.runtime} {found.runtime_version}, {found.provider}, {found.threads} threads, batch {found.batch}",
            found.arena,
            found.clocks,
            _accelerator(found),
            ", ".join(device.policy) or "as it is",
            ", ".join(device.unread) or "nothing",
        )
        for found in device.conditions
    ]


def _accelerator(found: Conditions) -> str:
    parts = [
        *(["CUDA graph" if found.cuda_graph else "no CUDA graph"] if found.cuda_graph is not None else []),
        *(["copies timed" if found.transfers else "copies not timed"] if found.transfers is not None else []),
    ]
    return ", ".join(parts) or "none"


def _measurements(info: Protocol) -> Html:
    flagged = f", {info.flagged} with a quality flag" if info.flagged else ", all without a quality flag"
    rows = [_measurement(row) for row in info.measurements]
    head = (
        "trial",
        "target",
        "phase",
        "time",
        "ratio",
        "interval",
        "pairs",
        "openings",
        "spread",
        "per second",
        "cold start",
        "peak memory",
        "energy",
        "took",
        "quality",
    )
    return tag(
        "details",
        tag("summary", f"All {len(rows)} measurements{flagged}" if rows else "No measurement"),
        table(head, rows, numeric=range(3, 14)),
        _shapes(info),
    )


def _shapes(info: Protocol) -> Html | None:
    """Scenarios with several shapes have an answer for each."""
    rows = [
        (
            f"#{row.trial}",
            row.record.target,
            row.record.scenario.phase,
            shape.label,
            "; ".join(f"{name} {list(dimensions)}" for name, dimensions in shape.shapes.items()),
            units.time(shape.latency.median.value),
            f"{units.factor(shape.ratio.estimate.value)} ({units.interval(shape.ratio.estimate)})"
            if shape.ratio
            else "",
        )
        for row in info.measurements
        if len(row.record.by_shape) > 1
        for shape in row.record.by_shape
    ]
    if not rows:
        return None
    head = ("trial", "target", "phase", "shape", "inputs", "time", "ratio")
    return join((tag("h3", "By shape"), table(head, rows, numeric=(5, 6))))


def _measurement(row: MeasurementRow) -> tuple[object, ...]:
    record = row.record
    latency, ratio, memory, energy = record.latency, record.ratio, record.memory, record.energy
    return (
        f"#{row.trial}",
        record.target,
        record.scenario.phase,
        units.time(latency.median.value) if latency else "",
        units.factor(ratio.estimate.value) if ratio else "",
        units.interval(ratio.estimate) if ratio else "",
        ratio.pairs if ratio else "",
        openings(record) or "",
        units.percent(latency.cv) if latency else "",
        units.number(latency.throughput) if latency and latency.throughput is not None else "",
        units.time(latency.cold_seconds) if latency and latency.cold_seconds is not None else "",
        units.size(memory.peak) if memory else "",
        f"{units.number(energy.joules.value)} J" if energy else "",
        units.duration(record.seconds),
        _quality(record),
    )


def _quality(record: Measurement) -> Html:
    if record.failure is not None:
        return tag("span", record.failure.kind, class_="tag bad", title=record.failure.message)
    why = str(record.environment.get("disturbed") or record.environment.get("throttled") or "") or None
    return join(tag("span", f, class_="tag" if f == "ok" else "tag warn", title=why) for f in record.quality)
