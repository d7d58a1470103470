"""The last section: on what, with which versions and how often it was measured, and what went wrong."""

from __future__ import annotations

from dashboards.info import units
from dashboards.info.protocol import Device, MeasurementRow, Protocol
from dashboards.page.html import Html, join, table, tag
from hwprofiles.measurement import Measurement


def protocol_section(info: Protocol, notes: tuple[str, ...]) -> Html:
    """Devices, measurements, data sets, failures."""
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
        "spread",
        "peak memory",
        "took",
        "quality",
    )
    return tag(
        "details",
        tag("summary", f"All {len(rows)} measurements{flagged}" if rows else "No measurement"),
        table(head, rows, numeric=(3, 4, 5, 6, 7, 8, 9)),
    )


def _measurement(row: MeasurementRow) -> tuple[object, ...]:
    record = row.record
    latency, ratio, memory = record.latency, record.ratio, record.memory
    return (
        f"#{row.trial}",
        record.target,
        record.scenario.phase,
        units.time(latency.median.value) if latency else "",
        units.factor(ratio.estimate.value) if ratio else "",
        units.interval(ratio.estimate) if ratio else "",
        ratio.pairs if ratio else "",
        units.percent(latency.cv) if latency else "",
        units.size(memory.peak) if memory else "",
        units.duration(record.seconds),
        _quality(record),
    )


def _quality(record: Measurement) -> Html:
    if record.failure is not None:
        return tag("span", record.failure.kind, class_="tag bad", title=record.failure.message)
    return join(tag("span", flag, class_="tag" if flag == "ok" else "tag warn") for flag in record.quality)
